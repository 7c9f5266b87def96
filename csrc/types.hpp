// Big-endian fields and addresses as they lie in a packet.
#pragma once

#include <array>
#include <bit>
#include <compare>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace lw {

static_assert(std::endian::native == std::endian::little, "x86-64 is the only host so far");

template <std::unsigned_integral T>
constexpr T byte_swap(T value) {
  if constexpr (sizeof(T) == 2) {
    return __builtin_bswap16(value);
  } else if constexpr (sizeof(T) == 4) {
    return __builtin_bswap32(value);
  } else {
    return __builtin_bswap64(value);
  }
}

// An unsigned integer as it lies in the packet. Equality needs no swap; there is no < to misuse.
template <std::unsigned_integral T>
class Be {
 public:
  constexpr Be() = default;
  explicit constexpr Be(T host) : raw_(byte_swap(host)) {}
  static constexpr Be from_raw(T raw) {
    Be field;
    field.raw_ = raw;
    return field;
  }
  constexpr T host() const { return byte_swap(raw_); }
  constexpr T raw() const { return raw_; }
  constexpr bool operator==(const Be&) const = default;

 private:
  T raw_{};
};

using Be16 = Be<std::uint16_t>;
using Be32 = Be<std::uint32_t>;

// Fields of a packet may lie at any address: these two are the only way to touch them.
template <class T>
  requires std::is_trivially_copyable_v<T>
T load(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <class T>
  requires std::is_trivially_copyable_v<T>
void store(void* to, const T& value) {
  std::memcpy(to, &value, sizeof value);
}
inline std::uint16_t load16(const void* from) { return load<Be16>(from).host(); }
inline std::uint32_t load32(const void* from) { return load<Be32>(from).host(); }
inline void store16(void* to, std::uint16_t host) { store(to, Be16{host}); }
inline void store32(void* to, std::uint32_t host) { store(to, Be32{host}); }

// An IPv4 address in host order: it is a table key and an arithmetic value far more often than octets.
using Ipv4 = std::uint32_t;

struct Ipv6 {
  std::uint64_t high{};  // octets 0-7 as they lie in the packet, not swapped
  std::uint64_t low{};
  constexpr bool operator==(const Ipv6&) const = default;
  constexpr std::uint8_t octet(unsigned index) const {
    return static_cast<std::uint8_t>((index < 8 ? high : low) >> (8 * (index % 8)));
  }
  constexpr bool is_multicast() const { return octet(0) == 0xff; }
  constexpr bool is_unspecified() const { return high == 0 && low == 0; }
};
static_assert(sizeof(Ipv6) == 16);

struct Mac {
  std::array<std::uint8_t, 6> octets{};
  constexpr bool operator==(const Mac&) const = default;
  constexpr bool is_group() const { return (octets[0] & 1) != 0; }
};
static_assert(sizeof(Mac) == 6);

}  // namespace lw
