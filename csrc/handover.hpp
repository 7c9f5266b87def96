// Frames that go from the worker whose queue they came in to the worker whose they are (spread.hpp): for devices that
// spread badly or not at all. A ring for each pair of workers, one producer and one consumer.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "lane.hpp"
#include "spread.hpp"

struct rte_ring;

namespace lw {

class Handover {
 public:
  static constexpr unsigned kRing = 256;  // frames: four bursts

  // Throws EalError when there is no memory for the rings.
  Handover(unsigned workers, std::uint64_t secret, int numa);

  // The frames of others go to them; returns how many stay, in front and in order. A frame whose owner's ring is full
  // stays: then order is lost instead of the frame.
  unsigned keep(unsigned self, PortRole role, rte_mbuf** frames, unsigned n, std::uint8_t subscriber_mask);

  struct Burst {
    PortRole role;
    unsigned n;
    std::array<rte_mbuf*, Lane::kBurst> frames;
  };
  // Some frames that came from the worker `from`; false: there are none.
  bool take(unsigned self, unsigned from, Burst& burst);
  unsigned workers() const { return workers_; }
  // Frees what is in the rings; no worker may run.
  void drain();

 private:
  struct RingFree {
    void operator()(rte_ring* ring) const;
  };
  using Ring = std::unique_ptr<rte_ring, RingFree>;
  rte_ring* ring(unsigned from, unsigned to) { return rings_[from * workers_ + to].get(); }

  const unsigned workers_;
  const Spread spread_;
  std::vector<Ring> rings_;
  // Of each worker: what was taken out of a ring and has to wait for the next take(), for it came from another side.
  struct alignas(64) Rest {
    unsigned n{};
    unsigned at{};
    std::array<void*, Lane::kBurst> tagged{};
  };
  std::vector<Rest> rests_;
};

}  // namespace lw
