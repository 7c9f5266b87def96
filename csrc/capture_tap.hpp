// One worker's half of a capture: copies frames into buffers of its own and hands them over to the writer.
//
// The worker only takes buffers and only puts into the ring, the writer does the opposite: with one user at each end,
// neither ever waits for the other, also not for one that was interrupted halfway. Where no buffer is left the frame is
// missed, and counted.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "tap.hpp"

struct rte_mempool;
struct rte_ring;

namespace lw {

class Filter;

class CaptureTap final : public Tap {
 public:
  struct Setup {
    const Filter* filter;               // null: every frame
    std::array<std::uint16_t, 2> port;  // of the IPv4 and of the IPv6 side
    unsigned worker;
    std::uint32_t snap;     // octets of a frame that are kept
    std::uint32_t buffers;  // wanted; less if there is not the memory
  };
  // What happened to the frame in a buffer.
  struct Mark {
    SideId side;
    bool sent;
    std::uint16_t queue;
    Counter way;           // unless sent
    std::uint32_t length;  // of the whole frame
    std::uint64_t cycles;  // when it was seen
  };
  // What the writer puts behind the frame.
  static constexpr std::uint32_t kRoomBehind = 320;
  static std::uint32_t buffer_octets(std::uint32_t snap);

  explicit CaptureTap(const Setup& setup);  // throws CaptureError
  ~CaptureTap() { release(); }
  CaptureTap(const CaptureTap&) = delete;
  CaptureTap& operator=(const CaptureTap&) = delete;

  // The worker's.
  void received(Item& item) noexcept override;
  void ended(Item& item, Counter way) noexcept override;
  void sent(SideId side, const rte_mbuf* frame) noexcept override;

  // The writer's: frames cut to the snap length, each with its mark, in buffers that have room for a block's header.
  unsigned take(rte_mbuf** frames, unsigned most);
  static const Mark& mark(rte_mbuf* frame);
  void release();  // buffers and ring; the worker has let go, and take() has given everything

  // Any thread's.
  struct Count {
    std::atomic<std::uint64_t> seen;  // frames that passed the filter
    std::atomic<std::uint64_t> missed;
  };
  const Count& count(SideId side) const { return counts_[static_cast<std::size_t>(side)]; }

 private:
  rte_mbuf* copy(SideId side, rte_mbuf* frame);

  Setup setup_;
  rte_mempool* pool_{};
  rte_ring* ring_{};
  std::array<Count, 2> counts_{};
};

}  // namespace lw
