#include "capture.hpp"

#include <algorithm>
#include <chrono>
#include <system_error>
#include <thread>
#include <utility>

#include "capture_file.hpp"
#include "capture_tap.hpp"
#include "filter.hpp"
#include "worker.hpp"

namespace lw {
namespace {

constexpr std::uint32_t kPoolOctets = 8U << 20;  // of all workers together
constexpr std::uint32_t kMostBuffers = 8192;     // of all workers together
constexpr unsigned kBatch = 64;
constexpr std::chrono::milliseconds kNap{1};

using Clock = std::chrono::steady_clock;

std::unique_ptr<Filter> compiled(const std::string& text) {
  if (text.empty()) return nullptr;
  try {
    return std::make_unique<Filter>(text);
  } catch (const FilterError& fault) {
    throw CaptureError(std::string("the filter: ") + fault.what());
  }
}

std::string about(const CaptureRequest& request) {
  return "captured by pylwaftr; filter: " + (request.filter.empty() ? "none" : request.filter.substr(0, 1000));
}

}  // namespace

// One capture from its start to its complete file.
class Capture::Session {
 public:
  Session(const std::vector<Worker*>& workers, std::array<std::uint16_t, 2> port, const CaptureRequest& request);
  ~Session() { stop(); }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  bool running() const { return running_.load(std::memory_order_acquire); }
  void stop();
  CaptureState state() const;

 private:
  void run();
  bool over();
  unsigned write_waiting();
  bool write_from(CaptureTap& tap);
  void disarm();
  void finish();
  bool write_totals();
  struct Totals {
    std::uint64_t seen;
    std::uint64_t missed;
  };
  Totals totals(SideId side) const;

  const std::vector<Worker*>& workers_;
  const std::array<std::uint16_t, 2> port_;
  const CaptureRequest request_;
  const std::unique_ptr<Filter> filter_;
  std::vector<std::unique_ptr<CaptureTap>> taps_;
  std::unique_ptr<CaptureFile> file_;
  const Clock::time_point deadline_;
  std::atomic<std::uint64_t> written_{};
  std::atomic<std::uint64_t> octets_{};
  const char* ended_by_{""};  // these two: written before running_ becomes false, read after
  std::string error_;
  std::atomic<bool> stop_{};
  std::atomic<bool> running_{true};
  std::thread thread_;
};

Capture::Session::Session(const std::vector<Worker*>& workers, std::array<std::uint16_t, 2> port,
                          const CaptureRequest& request)
    : workers_(workers),
      port_(port),
      request_(request),
      filter_(compiled(request.filter)),
      deadline_(Clock::now() + std::chrono::milliseconds(request.milliseconds)) {
  const std::uint32_t most = kPoolOctets / (CaptureTap::buffer_octets(request.snap) + 256);  // and its mbuf
  const auto buffers = static_cast<std::uint32_t>(std::min(most, kMostBuffers) / workers.size());
  for (unsigned i = 0; i < workers.size(); ++i) {
    taps_.push_back(std::make_unique<CaptureTap>(CaptureTap::Setup{filter_.get(), port, i, request.snap, buffers}));
  }
  file_ = std::make_unique<CaptureFile>(request.file, about(request));
  for (unsigned i = 0; i < workers.size(); ++i) workers[i]->watch(taps_[i].get());
  try {
    thread_ = std::thread(&Session::run, this);
  } catch (const std::system_error& fault) {
    disarm();
    throw CaptureError(std::string("no thread for the capture: ") + fault.what());
  }
}

void Capture::Session::stop() {
  stop_.store(true, std::memory_order_relaxed);
  if (thread_.joinable()) thread_.join();
}

void Capture::Session::run() {
  while (!over()) {
    if (write_waiting() == 0) std::this_thread::sleep_for(kNap);
  }
  disarm();
  while (write_waiting() > 0) {
  }
  finish();
  running_.store(false, std::memory_order_release);
}

bool Capture::Session::over() {
  if (!error_.empty()) {
    ended_by_ = "error";
  } else if (written_.load(std::memory_order_relaxed) >= request_.packets) {
    ended_by_ = "count";
  } else if (Clock::now() >= deadline_) {
    ended_by_ = "time";
  } else if (stop_.load(std::memory_order_relaxed)) {
    ended_by_ = "request";
  }
  return *ended_by_ != '\0';
}

// Takes what the taps have; what is beyond the bound, or cannot be written any more, is let go.
unsigned Capture::Session::write_waiting() {
  unsigned taken = 0;
  for (const auto& tap : taps_) {
    std::array<rte_mbuf*, kBatch> frames;
    const unsigned n = tap->take(frames.data(), kBatch);
    taken += n;
    const std::uint64_t before = written_.load(std::memory_order_relaxed);
    const std::uint64_t left = error_.empty() ? request_.packets - before : 0;
    const auto wanted = static_cast<unsigned>(std::min<std::uint64_t>(n, left));
    CaptureFile::let_go(frames.data() + wanted, n - wanted);
    if (wanted == 0) continue;
    if (!file_->write(frames.data(), wanted)) {
      error_ = file_->error();
      continue;
    }
    written_.store(before + wanted, std::memory_order_relaxed);
    octets_.store(file_->octets(), std::memory_order_relaxed);
  }
  return taken;
}

// A worker turns to its watcher between two bursts; one that has ended has none.
void Capture::Session::disarm() {
  for (Worker* worker : workers_) worker->watch(nullptr);
  for (const Worker* worker : workers_) {
    while (worker->running() && worker->watched_by() != nullptr) std::this_thread::sleep_for(kNap);
  }
}

void Capture::Session::finish() {
  for (const auto& tap : taps_) tap->release();
  if (error_.empty() && !write_totals()) error_ = file_->error();
  if (!error_.empty()) ended_by_ = "error";
  file_.reset();
}

bool Capture::Session::write_totals() {
  const Totals v4 = totals(SideId::v4);
  const Totals v6 = totals(SideId::v6);
  if (port_[0] == port_[1]) return file_->write_totals(port_[0], v4.seen + v6.seen, v4.missed + v6.missed);
  return file_->write_totals(port_[0], v4.seen, v4.missed) && file_->write_totals(port_[1], v6.seen, v6.missed);
}

Capture::Session::Totals Capture::Session::totals(SideId side) const {
  Totals sum{};
  for (const auto& tap : taps_) {
    sum.seen += tap->count(side).seen.load(std::memory_order_relaxed);
    sum.missed += tap->count(side).missed.load(std::memory_order_relaxed);
  }
  return sum;
}

CaptureState Capture::Session::state() const {
  CaptureState now{running(), request_.file,
                   "",        "",
                   0,         written_.load(std::memory_order_relaxed),
                   0,         octets_.load(std::memory_order_relaxed)};
  for (const SideId side : {SideId::v4, SideId::v6}) {
    now.seen += totals(side).seen;
    now.missed += totals(side).missed;
  }
  if (now.running) return now;
  now.ended_by = ended_by_;
  now.error = error_;
  return now;
}

Capture::Capture(std::vector<Worker*> workers, std::array<std::uint16_t, 2> port)
    : workers_(std::move(workers)), port_(port) {}

Capture::~Capture() { close(); }

void Capture::start(const CaptureRequest& request) {
  const std::lock_guard lock(mutex_);
  if (closed_) throw CaptureError("the router is about to end");
  if (session_ && session_->running()) {
    throw CaptureError("another capture is running: wait for it or stop it; it writes " + session_->state().file);
  }
  for (const Worker* worker : workers_) {
    if (!worker->running()) throw CaptureError("the router's workers have not started yet: try again");
  }
  session_.reset();
  session_ = std::make_unique<Session>(workers_, port_, request);
}

void Capture::stop() {
  const std::lock_guard lock(mutex_);
  if (session_) session_->stop();
}

void Capture::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  if (session_) session_->stop();
}

CaptureState Capture::state() const {
  const std::lock_guard lock(mutex_);
  return session_ ? session_->state() : CaptureState{};
}

}  // namespace lw
