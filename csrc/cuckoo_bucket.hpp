// One cache line of a cuckoo table: a version and seven keys, and how to look for a key in it.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <atomic>
#include <cstdint>

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

// A test may put a pause here, between any two steps that another thread can see (tests/native/cuckoo_stress.cpp).
#if !defined(LW_SHARED_STEP)
#define LW_SHARED_STEP()
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

// Slots that hold the key, one bit each. Empty slots look like key 0: the caller checks the tag.
inline unsigned match_portable(const Bucket& bucket, std::uint64_t key) {
  unsigned found = 0;
  for (unsigned i = 0; i < kSlots; ++i) found |= static_cast<unsigned>(key_of(get(bucket.word[i])) == key) << i;
  return found;
}

#if defined(__AVX2__)
// Two 32-octet loads for seven 8-octet ones. x86 loads each aligned 8 octets of them at once, and loads in order; what
// the scan says is a hint only: a match is loaded again by get(), and "nowhere" holds only under unchanged versions.
inline unsigned match_avx2(const Bucket& bucket, std::uint64_t key) {
  const auto* line = reinterpret_cast<const __m256i*>(&bucket);
  const __m256i wanted = _mm256_set1_epi64x(static_cast<long long>(key));
  const __m256i low = _mm256_cmpeq_epi64(_mm256_srli_epi64(_mm256_load_si256(line), 16), wanted);
  const __m256i high = _mm256_cmpeq_epi64(_mm256_srli_epi64(_mm256_load_si256(line + 1), 16), wanted);
  std::atomic_signal_fence(std::memory_order_seq_cst);  // the compiler keeps the order too
  const auto mask = static_cast<unsigned>(_mm256_movemask_pd(_mm256_castsi256_pd(low))) |
                    static_cast<unsigned>(_mm256_movemask_pd(_mm256_castsi256_pd(high))) << 4;
  return mask >> 1;  // the first lane is the version
}
#endif

// ThreadSanitizer rightly calls a vector load beside an atomic store a race, so it gets the portable scan.
inline unsigned match(const Bucket& bucket, std::uint64_t key) {
  LW_SHARED_STEP();
#if defined(__AVX2__) && !defined(__SANITIZE_THREAD__) && !defined(LW_PORTABLE_MATCH)
  return match_avx2(bucket, key);
#else
  return match_portable(bucket, key);
#endif
}

// For the writer: nobody else stores, so its own loads need no order.
inline unsigned empty_slots(const Bucket& bucket) {
  unsigned found = 0;
  for (unsigned i = 0; i < kSlots; ++i) found |= static_cast<unsigned>(bucket.word[i] == 0) << i;
  return found;
}

}  // namespace lw::cuckoo
