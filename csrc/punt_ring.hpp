// What lanes hand to the control side, and what it hands to them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "record_ring.hpp"

namespace lw {

enum class PuntKind : std::uint8_t {
  pcp = 1,   // a PCP request out of a softwire, whole
  miss = 2,  // a packet out of a softwire that no binding vouches for
  move = 3,  // one whose binding names another B4 address of the same subscriber
};

// One packet among the octets of a batch. Exported to Python as a numpy dtype, so: plain and without gaps.
struct [[gnu::packed]] PuntRow {
  std::uint32_t offset;
  std::uint32_t length;
  PuntKind kind;
  std::uint8_t lane;
  std::uint16_t reserved;
  std::uint64_t at_ns;
};
static_assert(sizeof(PuntRow) == 20 && std::is_trivially_copyable_v<PuntRow>);

struct PuntTag {
  PuntKind kind;
  std::uint64_t at_ns;
};
struct NoTag {};

using PuntRing = RecordRing<PuntTag>;  // a lane -> the control side
using InjectRing = RecordRing<NoTag>;  // the control side -> a lane; whole IPv6 packets

// 1,100 octets of PCP (RFC 6887 section 7) with headers and options; what is longer no client of ours sends.
inline constexpr std::uint32_t kMostPunted = 1600;

}  // namespace lw
