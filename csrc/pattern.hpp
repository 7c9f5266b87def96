// What octets of a frame have to be, all compared at once: constants at fixed places are one test instead of one each.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE4_1__)
#include <immintrin.h>
#endif

#include "types.hpp"

namespace lw {

class Pattern {
 public:
  static constexpr std::size_t kOctets = 32;

  // The octets from `at` on are those of `value`, where `mask` has bits.
  template <class T>
  void want(std::size_t at, const T& value, const T& mask) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= kOctets);
    std::memcpy(value_.data() + at, &value, sizeof value);
    std::memcpy(mask_.data() + at, &mask, sizeof mask);
    for (std::size_t i = at; i < at + sizeof value; ++i) value_[i] &= mask_[i];
  }

  // kOctets have to be readable.
  [[gnu::always_inline]] bool fits(const std::uint8_t* octets) const {
#if defined(__AVX2__)
    const auto* there = reinterpret_cast<const __m256i*>(octets);
    const auto* value = reinterpret_cast<const __m256i*>(value_.data());
    const auto* mask = reinterpret_cast<const __m256i*>(mask_.data());
    const __m256i differ = _mm256_xor_si256(_mm256_loadu_si256(there), _mm256_load_si256(value));
    return _mm256_testz_si256(differ, _mm256_load_si256(mask)) != 0;
#else
    std::uint64_t differ = 0;
    for (std::size_t i = 0; i < kOctets; i += 8) {
      differ |= (load<std::uint64_t>(octets + i) ^ load<std::uint64_t>(value_.data() + i)) &
                load<std::uint64_t>(mask_.data() + i);
    }
    return differ == 0;
#endif
  }

 private:
  alignas(32) std::array<std::uint8_t, kOctets> value_{};
  alignas(32) std::array<std::uint8_t, kOctets> mask_{};
};

// Whether the two addresses at `octets` are these.
[[gnu::always_inline]] inline bool are(const std::uint8_t* octets, const Ipv6& first, const Ipv6& second) {
#if defined(__SSE4_1__)
  const auto* there = reinterpret_cast<const __m128i*>(octets);
  const __m128i differ = _mm_or_si128(_mm_xor_si128(_mm_loadu_si128(there), std::bit_cast<__m128i>(first)),
                                      _mm_xor_si128(_mm_loadu_si128(there + 1), std::bit_cast<__m128i>(second)));
  return _mm_testz_si128(differ, differ) != 0;
#else
  return load<Ipv6>(octets) == first && load<Ipv6>(octets + sizeof first) == second;
#endif
}

}  // namespace lw
