// One cache line of a cuckoo table: a version and seven keys. cuckoo_scan.hpp looks for a key in it.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace lw::cuckoo {

inline constexpr unsigned kSlots = 7;

// A word is a key of 48 bits above a tag of 16; a tag of 0 is an empty slot, and then the whole word is 0.
struct alignas(64) Bucket {
  std::uint64_t version;
  std::uint64_t word[kSlots];
};
static_assert(sizeof(Bucket) == 64);

constexpr std::uint64_t word_of(std::uint64_t key, std::uint16_t tag) { return key << 16 | tag; }
constexpr std::uint64_t key_of(std::uint64_t word) { return word >> 16; }
constexpr std::uint16_t tag_of(std::uint64_t word) { return static_cast<std::uint16_t>(word); }

// A test may put a pause here, between any two steps that another thread can see (tests/native/fibers.hpp).
#if !defined(LW_SHARED_STEP)
#define LW_SHARED_STEP()
inline constexpr bool kStepped = false;
#else
inline constexpr bool kStepped = true;
#endif

// All that the writer and the readers share is touched through these two. Acquire and release on every cell stand
// for the fences of a textbook sequence lock: a reader that saw one newer cell sees the version that announced it.
// Both are plain moves on x86-64.
inline std::uint64_t get(const std::uint64_t& cell) {
  LW_SHARED_STEP();
  return std::atomic_ref<std::uint64_t>(const_cast<std::uint64_t&>(cell)).load(std::memory_order_acquire);
}
inline void put(std::uint64_t& cell, std::uint64_t value) {
  LW_SHARED_STEP();
  std::atomic_ref<std::uint64_t>(cell).store(value, std::memory_order_release);
}

// A value as a reader copies it. Of 16 octets x86 loads each aligned half at once, so one load does for two; which
// tenant's they are, the version tells. (ThreadSanitizer sees atomics alone, and steps lie between the halves.)
inline constexpr std::size_t kCopied = 16;  // what cells have to be aligned to
template <class Value>
[[gnu::always_inline]] inline Value copy_of(const std::uint64_t* cells) {
#if defined(__SSE2__) && !defined(__SANITIZE_THREAD__)
  if constexpr (sizeof(Value) == kCopied && !kStepped) {
    const __m128i both = _mm_load_si128(reinterpret_cast<const __m128i*>(cells));
    std::atomic_signal_fence(std::memory_order_seq_cst);  // the compiler keeps the order too
    return std::bit_cast<Value>(both);
  }
#endif
  std::array<std::uint64_t, sizeof(Value) / 8> copy;
  for (std::size_t i = 0; i < copy.size(); ++i) copy[i] = get(cells[i]);
  return std::bit_cast<Value>(copy);
}

// For the writer: nobody else stores, so its own loads need no order.
inline unsigned empty_slots(const Bucket& bucket) {
  unsigned found = 0;
  for (unsigned i = 0; i < kSlots; ++i) found |= static_cast<unsigned>(bucket.word[i] == 0) << i;
  return found;
}

}  // namespace lw::cuckoo
