// Port <-> PSID arithmetic of RFC 7597 section 5.1.
//
//   |<-- a bits: A -->|<--- k bits: PSID --->|<-- m bits: j -->|      a + k + m = 16
//
// A port belongs to the set of its k middle bits, unless a > 0 and A = 0: those ports (0 .. 2^(16-a) - 1)
// belong to nobody. k = 0 is a whole address: every port, and a is ignored (RFC 7598 section 4.5).
#pragma once

#include <cstdint>

namespace lw {

struct PortSetParams {
  std::uint8_t offset{};  // a
  std::uint8_t length{};  // k

  constexpr bool operator==(const PortSetParams&) const = default;
  constexpr bool valid() const { return offset <= 16 && length <= 16 && offset + length <= 16; }
  constexpr bool whole() const { return length == 0; }
  constexpr unsigned contiguous_bits() const { return 16U - offset - length; }  // m
  constexpr std::uint32_t sets() const { return std::uint32_t{1} << length; }
  constexpr std::uint32_t first_port() const { return whole() || offset == 0 ? 0U : std::uint32_t{1} << (16 - offset); }
  constexpr bool excluded(std::uint16_t port) const { return port < first_port(); }
  constexpr std::uint16_t psid(std::uint16_t port) const {
    return static_cast<std::uint16_t>((std::uint32_t{port} >> contiguous_bits()) & (sets() - 1));
  }
  constexpr bool member(std::uint16_t psid_wanted, std::uint16_t port) const {
    return !excluded(port) && (whole() || psid(port) == psid_wanted);
  }
};

}  // namespace lw
