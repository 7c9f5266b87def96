#include "eal.hpp"

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_log.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <mutex>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

namespace lw {
namespace {

// DPDK logs from any thread, also from drivers at run time: the last lines are kept until someone takes them.
class LogLines {
 public:
  void append(std::string_view text) {
    const std::lock_guard lock(mutex_);
    partial_ += text;
    for (std::size_t end = partial_.find('\n'); end != std::string::npos; end = partial_.find('\n')) {
      if (end > 0) lines_.push_back(partial_.substr(0, end));
      partial_.erase(0, end + 1);
      if (lines_.size() > kMost) lines_.pop_front();
    }
  }
  std::vector<std::string> take() {
    const std::lock_guard lock(mutex_);
    std::vector<std::string> taken(lines_.begin(), lines_.end());
    lines_.clear();
    return taken;
  }

 private:
  static constexpr std::size_t kMost = 1000;
  std::mutex mutex_;
  std::string partial_;
  std::deque<std::string> lines_;
};

// Never destroyed: the EAL thread and drivers may use it until the very end of the process.
struct Process {
  LogLines log;
  std::mutex mutex;
  std::condition_variable wake;
  bool tried{};
  bool running{};
  bool leave{};
  std::optional<std::string> fault;  // of the attempt to start; empty text = none
  std::vector<std::string> args;     // DPDK keeps pointers into them
  std::vector<char*> argv;
  std::thread thread;
};

Process& process() {
  static auto* const one = new Process;
  return *one;
}

ssize_t write_log(void*, const char* text, std::size_t length) {
  process().log.append({text, length});
  return static_cast<ssize_t>(length);
}

void log_to_memory() {
  static FILE* const stream =
      fopencookie(nullptr, "w", {.read = nullptr, .write = write_log, .seek = nullptr, .close = nullptr});
  if (stream == nullptr) return;
  setvbuf(stream, nullptr, _IOLBF, 0);
  rte_openlog_stream(stream);
}

// A wrong argument makes EAL print a hundred lines of usage to stdout, and getopt its complaint to stderr.
class OutputCapture {
 public:
  OutputCapture() : into_(memfd_create("eal-output", MFD_CLOEXEC)) {
    if (into_ < 0) return;
    fflush(nullptr);
    for (int fd : {STDOUT_FILENO, STDERR_FILENO}) {
      kept_[static_cast<std::size_t>(fd - 1)] = dup(fd);
      dup2(into_, fd);
    }
  }
  ~OutputCapture() { finish(); }
  OutputCapture(const OutputCapture&) = delete;
  OutputCapture& operator=(const OutputCapture&) = delete;

  std::string finish() {
    if (into_ < 0) return {};
    fflush(nullptr);
    for (int fd : {STDOUT_FILENO, STDERR_FILENO}) {
      const int kept = kept_[static_cast<std::size_t>(fd - 1)];
      if (kept < 0) continue;
      dup2(kept, fd);
      close(kept);
    }
    std::string text(static_cast<std::size_t>(lseek(into_, 0, SEEK_END)), '\0');
    const ssize_t got = pread(into_, text.data(), text.size(), 0);
    text.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
    close(std::exchange(into_, -1));
    return text;
  }

 private:
  int into_;
  std::array<int, 2> kept_{-1, -1};
};

struct Cause {
  std::string_view sign;  // what EAL writes
  std::string_view sentence;
};

// rte_errno is 0 after some failures (a held lock, for one), so the text of the log is what there is to go by.
constexpr std::array kCauses{
    Cause{"Cannot create lock on",
          "another DPDK process already runs with this file prefix: stop it, or give this one another --file-prefix"},
    Cause{"unrecognized option", "EAL does not know an argument: see dataplane.eal_args and what follows --"},
    Cause{"requires an argument", "an EAL argument lacks its value: see dataplane.eal_args and what follows --"},
    Cause{"Permission denied",
          "no permission for what DPDK needs: run as root, or set dataplane.hugepages: never for vdev ports"},
    Cause{"Operation not permitted",
          "no permission for what DPDK needs: run as root, or set dataplane.hugepages: never for vdev ports"},
    Cause{"No free",
          "no hugepages are free: reserve some with scripts/hugepages.sh, or set dataplane.hugepages: never"},
    Cause{"hugepage information",
          "hugepages cannot be used: reserve and mount them with scripts/hugepages.sh, or set dataplane.hugepages: "
          "never"},
    Cause{"Cannot init memory",
          "not enough memory for DPDK: reserve more hugepages with scripts/hugepages.sh, or set dataplane.hugepages: "
          "never"},
    Cause{"unavailable", "a worker CPU does not exist or may not be used: see dataplane.lcores"},
    Cause{"Invalid 'command line' arguments",
          "EAL does not accept its arguments: see dataplane.eal_args and what follows --"},
    Cause{"nvalid EAL arguments", "EAL does not accept its arguments: see dataplane.eal_args and what follows --"},
};

std::string last_error(const std::vector<std::string>& lines) {
  std::string last;
  for (const std::string& line : lines) {
    const bool usage = line.starts_with(' ') || line.starts_with('\t');
    if (!usage && line.find("Usage:") == std::string::npos && !line.ends_with(" options:")) last = line;
    if (line.find("FATAL") != std::string::npos) return line;
  }
  return last;
}

std::string explain(const std::vector<std::string>& lines, int error) {
  for (const Cause& cause : kCauses) {
    for (const std::string& line : lines) {
      if (line.find(cause.sign) != std::string::npos) return std::string(cause.sentence) + " (" + line + ")";
    }
  }
  const std::string last = last_error(lines);
  return "DPDK did not start: " + (last.empty() ? std::string(rte_strerror(error)) : last);
}

void start_and_stay(Process& all) {
  log_to_memory();
  OutputCapture capture;
  const int result = rte_eal_init(static_cast<int>(all.argv.size()) - 1, all.argv.data());
  const int error = rte_errno;
  all.log.append(capture.finish() + "\n");

  std::unique_lock lock(all.mutex);
  all.running = result >= 0;
  all.fault = all.running ? std::string{} : explain(all.log.take(), error);
  all.wake.notify_all();
  if (!all.running) return;
  all.wake.wait(lock, [&all] { return all.leave; });
  rte_eal_cleanup();
}

}  // namespace

void Eal::init(std::vector<std::string> args) {
  Process& all = process();
  std::unique_lock lock(all.mutex);
  if (std::exchange(all.tried, true)) {
    throw EalError("DPDK can be started only once in the life of a process: start a new process");
  }
  all.args = std::move(args);
  for (std::string& arg : all.args) all.argv.push_back(arg.data());
  all.argv.push_back(nullptr);

  all.thread = std::thread([&all] { start_and_stay(all); });
  all.wake.wait(lock, [&all] { return all.fault.has_value(); });
  if (all.fault->empty()) return;
  lock.unlock();
  all.thread.join();
  throw EalError(*all.fault);
}

bool Eal::running() {
  Process& all = process();
  const std::lock_guard lock(all.mutex);
  return all.running;
}

void Eal::cleanup() {
  Process& all = process();
  {
    const std::lock_guard lock(all.mutex);
    if (!std::exchange(all.running, false)) return;
    all.leave = true;
  }
  all.wake.notify_all();
  all.thread.join();
}

std::vector<std::string> Eal::take_log() { return process().log.take(); }

}  // namespace lw
