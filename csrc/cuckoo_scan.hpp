// How a bucket is searched for a key: seven comparisons, or two of AVX2. Both find the same.
//
// A build whose instruction set has AVX2 (x86-64-v3, most of `native`) uses it everywhere, inlined. Any other build for
// x86-64 contains what searches buckets twice and chooses once at its start by what the CPU has: then a burst of
// look-ups costs one comparison more, and no key an indirect call.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <atomic>
#include <cstdint>

#include "cuckoo_bucket.hpp"

// A function that contains the search with AVX2. The attribute stands only where the build does not have it anyway: a
// function with one is not inlined into a function without.
#if defined(__x86_64__) && !defined(__AVX2__)
#define LW_AVX2 [[gnu::target("avx2")]]
#else
#define LW_AVX2
#endif

namespace lw::cuckoo {

enum class Scan : std::uint8_t { portable, avx2 };

// What a build has everywhere, and the most that it contains. ThreadSanitizer rightly calls a vector load beside an
// atomic store a race, so it gets the portable search.
#if !defined(__x86_64__) || defined(__SANITIZE_THREAD__)
inline constexpr Scan kBase = Scan::portable, kMost = Scan::portable;
#elif defined(__AVX2__)
inline constexpr Scan kBase = Scan::avx2, kMost = Scan::avx2;
#else
inline constexpr Scan kBase = Scan::portable, kMost = Scan::avx2;
#endif

inline bool can(Scan scan) {
  if (scan <= kBase || scan == Scan::portable) return true;
  if (scan > kMost) return false;
#if defined(__x86_64__)
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2");
#else
  return false;
#endif
}

namespace detail {
inline Scan chosen = can(kMost) ? kMost : Scan::portable;
}
inline Scan scan() { return detail::chosen; }
// For tests, while nobody looks anything up. False, and nothing is done, where that cannot be.
inline bool use(Scan wanted) {
  if (can(wanted)) detail::chosen = wanted;
  return scan() == wanted;
}

// match(): slots that hold the key, one bit each. Empty slots look like key 0: the caller checks the tag.
struct PortableScan {
  static unsigned match(const Bucket& bucket, std::uint64_t key) {
    LW_SHARED_STEP();
    unsigned found = 0;
    for (unsigned i = 0; i < kSlots; ++i) found |= static_cast<unsigned>(key_of(get(bucket.word[i])) == key) << i;
    return found;
  }
};

// Two 32-octet loads for seven 8-octet ones. x86 loads each aligned 8 octets of them at once, and loads in order; what
// the scan says is a hint only: a match is loaded again by get(), and "nowhere" holds only under unchanged versions.
#if defined(__x86_64__)
struct Avx2Scan {
  LW_AVX2 static unsigned match(const Bucket& bucket, std::uint64_t key) {
    LW_SHARED_STEP();
    const auto* line = reinterpret_cast<const __m256i*>(&bucket);
    const __m256i wanted = _mm256_set1_epi64x(static_cast<long long>(key));
    const __m256i low = _mm256_cmpeq_epi64(_mm256_srli_epi64(_mm256_load_si256(line), 16), wanted);
    const __m256i high = _mm256_cmpeq_epi64(_mm256_srli_epi64(_mm256_load_si256(line + 1), 16), wanted);
    std::atomic_signal_fence(std::memory_order_seq_cst);  // the compiler keeps the order too
    const auto mask = static_cast<unsigned>(_mm256_movemask_pd(_mm256_castsi256_pd(low))) |
                      static_cast<unsigned>(_mm256_movemask_pd(_mm256_castsi256_pd(high))) << 4;
    return mask >> 1;  // the first lane is the version
  }
};
#else
using Avx2Scan = PortableScan;
#endif

}  // namespace lw::cuckoo
