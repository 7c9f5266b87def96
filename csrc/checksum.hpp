// Internet checksums: over headers, over segments, and incrementally (RFC 1624).
#pragma once

#include <cstdint>

#include "packet.hpp"
#include "types.hpp"

namespace lw::checksum {

// One's complement sums are kept in 64 bits and in packet order: the sum of swapped words is the swapped sum (RFC
// 1071).
constexpr std::uint16_t fold(std::uint64_t sum) {
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<std::uint16_t>(sum);
}

inline std::uint64_t sum(const std::uint8_t* octets, std::uint32_t n, std::uint64_t start = 0) {
  std::uint64_t total = start;
  for (; n >= 4; octets += 4, n -= 4) total += load<std::uint32_t>(octets);
  if (n >= 2) {
    total += load<std::uint16_t>(octets);
    octets += 2;
    n -= 2;
  }
  if (n == 1) total += *octets;  // little-endian host: an odd octet is the low half of a zero-padded word
  return total;
}

// Over `n` octets from `offset`, across segments. An odd segment shifts what follows by one octet (RFC 1071 section
// 2B).
inline std::uint64_t sum(const rte_mbuf* frame, std::uint32_t offset, std::uint32_t n, std::uint64_t start = 0) {
  std::uint64_t total = start;
  bool odd = false;
  for (; frame != nullptr && n > 0; frame = frame->next) {
    if (offset >= frame->data_len) {
      offset -= frame->data_len;
      continue;
    }
    const std::uint32_t part = frame->data_len - offset < n ? frame->data_len - offset : n;
    const std::uint16_t folded = fold(sum(packet::data(frame, offset), part));
    total += odd ? byte_swap(folded) : folded;
    odd ^= (part & 1) != 0;
    offset = 0;
    n -= part;
  }
  return total;
}

// What goes into a checksum field, as it lies in the packet.
constexpr std::uint16_t field(std::uint64_t total) { return static_cast<std::uint16_t>(~fold(total)); }
constexpr bool good(std::uint64_t total) { return fold(total) == 0xffff; }

// The header checksum of the common 20 octets: five loads, no loop.
inline bool good_ipv4_20(const std::uint8_t* header) {
  std::uint64_t total = load<std::uint64_t>(header);
  const auto second = load<std::uint64_t>(header + 8);
  total = (total & 0xffffffff) + (total >> 32) + (second & 0xffffffff) + (second >> 32);
  return good(total + load<std::uint32_t>(header + 16));
}

// RFC 1624 equation 3, not RFC 1141: the older form can leave 0xffff where the sum must be 0x0000.
constexpr std::uint16_t update(std::uint16_t check, std::uint16_t before, std::uint16_t after) {
  std::uint32_t total = std::uint32_t{static_cast<std::uint16_t>(~check)} + static_cast<std::uint16_t>(~before) + after;
  total = (total & 0xffff) + (total >> 16);
  total = (total & 0xffff) + (total >> 16);
  return static_cast<std::uint16_t>(~total);
}

// Of ICMPv6 and the like over the IPv6 pseudo-header (RFC 8200 section 8.1).
inline std::uint64_t pseudo6(const std::uint8_t* addresses, std::uint32_t n, std::uint8_t next_header) {
  return sum(addresses, 32) + Be32{n}.raw() + Be32{next_header}.raw();
}

}  // namespace lw::checksum
