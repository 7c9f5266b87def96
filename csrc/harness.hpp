// One lane without ports: frames in as octets, frames out as octets, time by hand. For tests, explain and fuzzing.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "inject.hpp"
#include "lane.hpp"
#include "punt.hpp"
#include "shared.hpp"
#include "tap.hpp"

namespace lw {

class Harness final : public FrameSink, private Tap {
 public:
  // How one received packet ended, and what was looked up for it.
  struct End {
    SideId side;
    Counter way;
    std::uint16_t inner;  // where its IPv4 header was behind the link header
    bool looked_up;
    bool found;
    BindingKey key;
    Softwire softwire;
  };
  struct Frame {
    SideId side;
    std::vector<std::uint8_t> octets;
  };
  using Octets = std::span<const std::uint8_t>;
  // What the ports are taken to do.
  //   none      nothing: frames carry no verdict on their checksums, and each leaves whole in one buffer
  //   checksum  all there is: a verdict on each frame, checksums completed as a device does it, any number of buffers
  //   open      as checksum, but good header checksums come as a sender on the same host leaves them, not yet written
  enum class Offloads : std::uint8_t { none, checksum, open };

  // EAL has to be up: the buffers come from a pool. Throws std::runtime_error if there is no memory for it.
  Harness(Settings settings, const BindingTable& table, std::uint32_t mbufs = 4096, Offloads offloads = Offloads::none);
  ~Harness();
  Harness(const Harness&) = delete;
  Harness& operator=(const Harness&) = delete;

  // One burst of at most Lane::kBurst frames. `segments` cuts the only frame into buffers of these lengths.
  void feed(SideId side, std::span<const Octets> frames, std::span<const std::uint32_t> segments = {});
  void advance(std::uint64_t ms);
  void interface_up();
  void drop_held();
  void set_next_hop(SideId side, const Mac& mac);  // as if it had just answered
  // Puts the packets into the lane's ring as far as there is room, and lets the lane send them.
  std::size_t inject(Octets packets, std::span<const std::uint32_t> lengths);
  Punt::Batch punted() { return punt_.take(); }
  // Other settings from the next burst on; those of the ports have to be the same.
  void apply(Settings settings);
  std::vector<Frame> take() { return std::exchange(sent_, {}); }
  std::vector<End> take_ends() { return std::exchange(ends_, {}); }
  void watch() { lane_->watch(this); }  // records ends from now on
  const Counters& counters() const { return counters_; }
  std::uint32_t mbufs_in_use() const;
  bool quiescent() const { return lane_->quiescent(); }

  std::uint16_t send(SideId side, rte_mbuf** frames, std::uint16_t n) noexcept override;

 private:
  struct PoolFree {
    void operator()(rte_mempool* pool) const;
  };
  void received(Item&) noexcept override {}
  void ended(Item& item, Counter way) noexcept override;
  void sent(SideId, const rte_mbuf*) noexcept override {}
  rte_mbuf* frame_of(Octets octets, std::span<const std::uint32_t> segments);
  void judge(rte_mbuf* frame) const;

  Offloads offloads_;
  std::unique_ptr<const Settings> settings_;
  Counters counters_;
  Punt punt_;
  Inject inject_;
  Shared shared_;
  std::unique_ptr<rte_mempool, PoolFree> pool_;
  std::unique_ptr<Lane> lane_;
  std::vector<Frame> sent_;
  std::vector<End> ends_;
  std::uint64_t now_ns_{1'000'000'000'000};  // not 0: nothing may depend on the start of time
};

}  // namespace lw
