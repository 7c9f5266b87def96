// A NIC with traffic, in the place of a net_null port's empty wire: an RX callback of ethdev writes the frames that are
// due (bench_pacer.hpp) into buffers, so whoever polls the queue, a running router for one, receives them.
#pragma once

#include <cstdint>
#include <string>

#include "bench_traffic.hpp"

struct rte_eth_rxtx_callback;

namespace lw::bench {

// What the two sides tell each other: half of it the control side writes, half the worker. Each half is a cache line if
// the whole begins at one.
struct SourceWords {
  std::uint64_t rate;          // frames a second, Pacer::kUnlimited
  std::uint64_t ring;          // frames that wait at most, 0 = Pacer::kRing
  std::uint64_t first, count;  // of the plan's bindings, count 0 = all from the first on
  std::uint64_t unused[3];
  std::uint64_t hz;  // of the clock that gaps are told by: for readers that have no DPDK
  std::uint64_t offered, given, missed;
  std::uint64_t longest_gap;  // between two polls, cycles; the reader may set it to 0
  std::uint64_t polls;
  std::uint64_t unused_too[3];
};
static_assert(sizeof(SourceWords) == 128);

class FrameSource {
 public:
  // On a queue that is set up, whether it runs or not. `words` and the packet pool of this name outlive all polls of
  // the queue. EalError if this cannot be, std::invalid_argument for a bad plan.
  FrameSource(std::uint16_t port, std::uint16_t queue, const Traffic::Plan& plan, const std::string& pool,
              SourceWords& words);
  ~FrameSource() { detach(); }
  FrameSource(const FrameSource&) = delete;
  FrameSource& operator=(const FrameSource&) = delete;

  // The queue is dry from the poll behind the current one on. Before the port is closed. Twice is once.
  void detach();

  struct State;

 private:
  std::uint16_t port_, queue_;
  State* state_;  // never freed: a worker may be about to enter the callback, and nothing says when it no longer is
  const rte_eth_rxtx_callback* callback_{};
};

}  // namespace lw::bench
