// The way out of a lane: link headers, packets that wait for their next hop, and one queue a side.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "stage.hpp"

namespace lw {

struct Transmitter {
  static constexpr std::uint16_t kQueue = 256;
  static constexpr std::uint16_t kWaiting = 256;  // DP-196 asks for one at least

  struct Queue {
    std::uint16_t n{};
    std::uint16_t widest{1};  // most buffers of one frame, since some had to be copied
    std::uint32_t octets{};
    std::array<rte_mbuf*, kQueue> frames{};
  };
  // The link header towards the next hop, made once a burst.
  struct Link {
    bool resolved{};
    std::uint8_t length{};
    std::array<std::uint8_t, ether::kHeader + ether::kTag> header{};
  };
  struct Waiting {
    rte_mbuf* frame;
    Counter edge;  // count_ for packets made here
    Origin origin;
    Tally tally;
    std::uint32_t failed_rounds;   // of the next hop when it was queued
    std::uint64_t account_reuses;  // the same of the accounts: newer ones may be another binding's
  };
  struct Waitings {
    std::uint16_t n{};
    std::array<Waiting, kWaiting> packets{};
  };

  explicit Transmitter(FrameSink& frame_sink) : sink(frame_sink) {}

  FrameSink& sink;
  std::array<Queue, 2> queues;
  std::array<Link, 2> links;
  std::array<Waitings, 2> waiting;

  Queue& queue(SideId side) { return queues[static_cast<unsigned>(side)]; }
  Link& link(SideId side) { return links[static_cast<unsigned>(side)]; }
  Waitings& waits(SideId side) { return waiting[static_cast<unsigned>(side)]; }
};

// Takes over what the neighbours have learnt; before each burst.
void refresh_links(Context& ctx);
// Sends or gives up what waited, after a neighbour may have changed.
void serve_waiting(Context& ctx);
// Hands the queues to the sink.
void flush(Context& ctx);
void drop_all_waiting(Context& ctx);

// Queues a finished frame.
inline void enqueue(Context& ctx, rte_mbuf* frame, SideId side) {
  auto& queue = ctx.out.queue(side);
  if (queue.n == Transmitter::kQueue) [[unlikely]] {
    flush(ctx);
  }
  queue.octets += packet::length(frame);
  queue.frames[queue.n++] = frame;
  if (frame->nb_segs > 1) [[unlikely]] {
    queue.widest = std::max(queue.widest, frame->nb_segs);
  }
}

}  // namespace lw
