// How the frames of the benchmarks spread over bindings, and over the queues or workers of a router: reckoned from what
// the generator draws, beside the measurement and not in it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "bench_frame.hpp"

namespace lw::bench {

// Whose the first packets of a Traffic of this seed are; of hairpinned ones who sends them.
std::vector<std::uint32_t> draws(Direction direction, std::uint32_t bindings, std::size_t packets, std::uint64_t seed);

enum class By : std::uint8_t {
  outer,     // RSS of a NIC: Toeplitz over both addresses of the outermost header
  inner,     // the same over the IPv4 header inside a softwire
  software,  // handover.hpp
};

struct Queues {
  By by;
  unsigned count;
  std::uint64_t secret;          // of software
  std::uint8_t subscriber_mask;  // of software
};

// The queue, or worker, of each binding's packets.
std::vector<std::uint16_t> queues_of(std::span<const std::uint32_t> numbers, Direction direction, const Queues& queues);

}  // namespace lw::bench
