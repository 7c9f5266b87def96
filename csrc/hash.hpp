// One mixing step for all that needs a hash: a 64 x 64 -> 128 bit multiplication, both halves kept.
#pragma once

#include <cstdint>

#include "types.hpp"

namespace lw::hash {

constexpr std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a ^ 0x9e3779b97f4a7c15) * (b ^ 0xd6e8feb86659fd93);
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

// The first `length` bits, host order.
struct Prefix {
  std::uint64_t high{}, low{};
  constexpr bool operator==(const Prefix&) const = default;
};
constexpr Prefix prefix(const Ipv6& address, unsigned length) {
  const std::uint64_t high = byte_swap(address.high), low = byte_swap(address.low);
  const auto keep = [](std::uint64_t half, unsigned bits) {
    return bits == 0 ? 0 : bits >= 64 ? half : half & ~(~std::uint64_t{0} >> bits);
  };
  return {keep(high, length), keep(low, length > 64 ? length - 64 : 0)};
}
constexpr bool prefix_equal(const Ipv6& a, const Ipv6& b, unsigned length) {
  return prefix(a, length) == prefix(b, length);
}

// The subscriber of a B4 address (RFC 7785: limits are by prefix, not by address).
constexpr std::uint64_t subscriber(const Ipv6& b4, std::uint8_t mask) {
  const Prefix of = prefix(b4, mask);
  return mix(of.high, of.low);
}

}  // namespace lw::hash
