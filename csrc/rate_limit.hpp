// Token buckets that many workers may share: one word each, no lock. Time is an argument.
//
// The word is the "theoretical arrival time" of the generic cell rate algorithm: a bucket of N tokens refilled within P
// lets a packet pass while that time is at most P - P/N ahead of now, and moves it on by P/N.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace lw {

struct Rate {  // `packets` at once, refilled within `period_ns`; packets 0 = no limit
  std::uint32_t packets{};
  std::uint64_t period_ns{};
};

class TokenBucket {
 public:
  bool take(const Rate& rate, std::uint64_t now_ns) {
    if (rate.packets == 0) return true;
    const std::uint64_t step = rate.period_ns / rate.packets;
    std::uint64_t arrival = arrival_.load(std::memory_order_relaxed);
    for (;;) {
      const std::uint64_t base = arrival > now_ns ? arrival : now_ns;
      if (base - now_ns > rate.period_ns - step) return false;
      if (arrival_.compare_exchange_weak(arrival, base + step, std::memory_order_relaxed)) return true;
    }
  }

 private:
  std::atomic<std::uint64_t> arrival_{};
};

// One bucket per source, found by a keyed hash: two sources in one bucket are rare and cannot be arranged from outside.
class SourceBuckets {
 public:
  bool take(std::uint64_t source_hash, const Rate& rate, std::uint64_t now_ns) {
    return buckets_[source_hash % kBuckets].take(rate, now_ns);
  }

 private:
  static constexpr std::size_t kBuckets = 65536;
  std::array<TokenBucket, kBuckets> buckets_;
};

// When something last happened, per source, found as above.
class SourceTimes {
 public:
  // Nanoseconds; long ago for a source that is not known.
  std::uint64_t since(std::uint64_t source_hash, std::uint64_t now_ns) const {
    const std::uint64_t at = times_[source_hash % kTimes].load(std::memory_order_relaxed);
    return at == 0 ? ~std::uint64_t{0} : now_ns > at ? now_ns - at : 0;
  }
  void note(std::uint64_t source_hash, std::uint64_t now_ns) {
    times_[source_hash % kTimes].store(now_ns, std::memory_order_relaxed);
  }

 private:
  static constexpr std::size_t kTimes = 65536;
  std::array<std::atomic<std::uint64_t>, kTimes> times_{};
};

}  // namespace lw
