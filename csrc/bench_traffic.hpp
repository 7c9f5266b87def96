// Random packets of all bindings, written into the buffers that a port has just "received".
#pragma once

#include <cstdint>
#include <vector>

#include "bench_fleet.hpp"
#include "bench_frame.hpp"
#include "lane.hpp"
#include "types.hpp"

struct rte_mbuf;

namespace lw::bench {

class Traffic {
 public:
  struct Plan {
    Direction direction;
    std::uint32_t bindings;
    std::vector<std::uint16_t> octets;  // of the frames, in turn; no FCS
    bool tcp;                           // ACK segments instead of UDP datagrams
    Mac to;
    std::uint64_t seed = 1;
  };
  // Throws std::invalid_argument for sizes that the headers do not fit into.
  explicit Traffic(const Plan& plan);

  static std::uint16_t least(Direction direction);
  // From now on these of the bindings; all that are not beyond the plan's.
  void choose(std::uint64_t first, std::uint64_t count);
  void write(rte_mbuf* const* frames, unsigned n);

 private:
  void write(rte_mbuf* frame, const FrameTemplate& from);

  Plan plan_;
  std::vector<FrameTemplate> templates_;
  std::uint16_t headers_;  // octets of them
  std::size_t next_{};
  Random random_;
  std::uint32_t first_{}, count_;
};

}  // namespace lw::bench
