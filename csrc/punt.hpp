// The control side's end of the punt rings: batches, and a file descriptor that is readable when something waits.
//
// Workers make no system call. A thread of its own looks at the rings and writes the descriptor, and it looks only
// while it is armed: from a take() on, until it has written once.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "punt_ring.hpp"

namespace lw {

class Punt {
 public:
  struct Batch {
    std::vector<PuntRow> rows;
    std::vector<std::uint8_t> octets;
  };

  Punt(std::size_t lanes, std::size_t octets_each);
  ~Punt();
  Punt(const Punt&) = delete;
  Punt& operator=(const Punt&) = delete;

  PuntRing& ring(std::size_t lane) { return *rings_[lane]; }
  // All that waits, lane by lane in the order of arrival. Never waits.
  Batch take();
  // An eventfd, good for the life of this object. The thread behind it starts with the first call, on its caller's
  // CPUs.
  int fd();
  void close();  // ends the thread; take() still works

 private:
  bool waiting() const;
  void watch();
  void arm();

  std::vector<std::unique_ptr<PuntRing>> rings_;
  std::mutex reader_;  // one consumer at a time
  std::mutex mutex_;   // of all below
  std::condition_variable changed_;
  int fd_{-1};
  bool armed_{};
  bool closing_{};
  std::thread watcher_;
};

}  // namespace lw
