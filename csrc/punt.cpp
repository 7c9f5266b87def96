#include "punt.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <system_error>

namespace lw {

namespace {
constexpr std::chrono::microseconds kNap{500};
}  // namespace

Punt::Punt(std::size_t lanes, std::size_t octets_each) {
  for (std::size_t i = 0; i < lanes; ++i) rings_.push_back(std::make_unique<PuntRing>(octets_each));
}

Punt::~Punt() {
  close();
  if (fd_ >= 0) ::close(fd_);
}

bool Punt::waiting() const {
  return std::ranges::any_of(rings_, [](const auto& ring) { return !ring->empty(); });
}

Punt::Batch Punt::take() {
  Batch batch;
  {
    const std::scoped_lock reader(reader_);
    for (std::size_t lane = 0; lane < rings_.size(); ++lane) {
      for (PuntRing::Record record; rings_[lane]->front(record); rings_[lane]->pop()) {
        batch.rows.push_back({static_cast<std::uint32_t>(batch.octets.size()), record.length, record.tag.kind,
                              static_cast<std::uint8_t>(lane), 0, record.tag.at_ns});
        batch.octets.insert(batch.octets.end(), record.octets, record.octets + record.length);
      }
    }
  }
  arm();
  return batch;
}

void Punt::arm() {
  const std::scoped_lock lock(mutex_);
  if (fd_ < 0) return;
  eventfd_t ignored = 0;
  (void)::eventfd_read(fd_, &ignored);  // what came after this batch makes it readable anew
  armed_ = true;
  changed_.notify_one();
}

int Punt::fd() {
  const std::scoped_lock lock(mutex_);
  if (fd_ >= 0) return fd_;
  fd_ = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
  armed_ = true;
  if (!closing_) watcher_ = std::thread([this] { watch(); });
  return fd_;
}

void Punt::watch() {
  std::unique_lock lock(mutex_);
  while (!closing_) {
    if (!armed_) {
      changed_.wait(lock);
    } else if (waiting()) {
      armed_ = false;
      (void)::eventfd_write(fd_, 1);
    } else {
      changed_.wait_for(lock, kNap);
    }
  }
}

void Punt::close() {
  {
    const std::scoped_lock lock(mutex_);
    closing_ = true;
    changed_.notify_one();
  }
  if (watcher_.joinable()) watcher_.join();
}

}  // namespace lw
