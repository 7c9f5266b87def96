// Random packets of all bindings, written into the buffers that a port has just "received".
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "bench_fleet.hpp"
#include "lane.hpp"
#include "types.hpp"

struct rte_mbuf;

namespace lw::bench {

enum class Direction : std::uint8_t { encap, decap, hairpin };

class Traffic {
 public:
  struct Plan {
    Direction direction;
    std::uint32_t bindings;
    std::vector<std::uint16_t> octets;  // of the frames, in turn; no FCS
    bool tcp;                           // ACK segments instead of UDP datagrams
    Mac to;
  };
  // Throws std::invalid_argument for sizes that the headers do not fit into.
  explicit Traffic(const Plan& plan);

  static std::uint16_t least(Direction direction);
  void write(rte_mbuf* const* frames, unsigned n);

 private:
  static constexpr std::size_t kMost = 14 + 40 + 20 + 20;
  // What does not change from frame to frame of one size.
  struct Template {
    std::uint16_t octets;
    std::uint32_t inner_sum;  // of the IPv4 header without addresses
    alignas(32) std::array<std::uint8_t, kMost> headers;
  };
  Template make(std::uint16_t octets) const;
  void write(rte_mbuf* frame, const Template& from);

  Plan plan_;
  std::vector<Template> templates_;
  std::uint16_t headers_;  // octets of them
  std::size_t next_{};
  Random random_{1};
};

}  // namespace lw::bench
