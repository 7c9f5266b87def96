// Bindings by formula: number -> address, PSID, softwire. Nothing has to be looked up to make a packet of any of them,
// so a generator of random packets costs no cache line, and a reader knows what it must find.
//
// 64 port sets an IPv4 address (k = 6, a = 6 as in RFC 7597 section 5.1), each B4 in a /56 of its own.
#pragma once

#include <bit>
#include <cstdint>

#include "binding.hpp"
#include "binding_table.hpp"
#include "hash.hpp"
#include "types.hpp"

namespace lw::bench {

// wyrand: one multiplication a number, and no number waits for the one before.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(hash::mix(seed, 1)) {}
  std::uint64_t next() {
    state_ += 0xa0761d6478bd642f;
    return hash::mix(state_, state_ ^ 0xe7037ed1a0b428db);
  }
  std::uint32_t below(std::uint32_t count) { return below(next(), count); }
  static std::uint32_t below(std::uint64_t number, std::uint32_t count) {
    return static_cast<std::uint32_t>((number >> 32) * count >> 32);
  }

 private:
  std::uint64_t state_;
};

namespace fleet {

inline constexpr std::uint8_t kOffset = 6, kLength = 6;
inline constexpr Ipv4 kFirst = 0x0a000000;
// Upper halves, host order. 3fff::/20 (RFC 9637) has room for 28 bits of number before the 8 of a /56.
inline constexpr std::uint64_t kB4 = 0x3fff0000'00000000, kBr = 0x20010db8'ffff0000;
inline constexpr std::uint32_t kMost = 1U << 28;

constexpr Ipv4 address(std::uint32_t number) { return kFirst + (number >> kLength); }
constexpr std::uint16_t psid(std::uint32_t number) { return number & ((1U << kLength) - 1); }
constexpr BindingKey key(std::uint32_t number) { return {address(number), psid(number)}; }

// A port of the set: A in 1 .. 63, any j.
constexpr std::uint16_t port(std::uint32_t number, std::uint32_t random) {
  const std::uint32_t block = 1 + (random & 0xffff) * ((1U << kOffset) - 1) / 0x10000;
  return static_cast<std::uint16_t>(block << (16 - kOffset) | psid(number) << (16 - kOffset - kLength) |
                                    (random >> 16 & 0xf));
}

// `variant` 0 or 1: the binding before and after a change of both its addresses.
constexpr Ipv6 br(std::uint32_t variant = 0) { return {byte_swap(kBr), byte_swap(std::uint64_t{1} + variant)}; }
constexpr Ipv6 b4(std::uint32_t number, std::uint32_t variant = 0) {
  return {byte_swap(kB4 | std::uint64_t{number} << 8),
          byte_swap(std::uint64_t{address(number)} << 16 | psid(number)) ^ variant};
}
constexpr Softwire softwire(std::uint32_t number, std::uint32_t variant = 0) {
  return {b4(number, variant), br(variant)};
}
constexpr BindingRow row(std::uint32_t number, std::uint32_t variant = 0) {
  return {.ipv4 = address(number),
          .psid = psid(number),
          .psid_len = kLength,
          .psid_offset = kOffset,
          .b4 = std::bit_cast<std::array<std::uint8_t, 16>>(b4(number, variant)),
          .br = std::bit_cast<std::array<std::uint8_t, 16>>(br(variant))};
}

// A table that always finds, and reads no memory for it.
inline BindingTable::Found constant_hit(BindingKey key) {
  static constexpr Ipv6 kTo = br();
  return {b4((key.ipv4 - kFirst) << kLength | key.psid), &kTo};
}

}  // namespace fleet

}  // namespace lw::bench
