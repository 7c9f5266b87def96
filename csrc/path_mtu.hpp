// Lowered path MTUs per B4 (RFC 8201): a small shared cache that any lane may read and write without waiting.
//
// A set of four entries per hash. Each entry has a version that is odd while it is being written; a reader that meets a
// write takes the entry for absent, a writer that meets one gives up: the next packet too big repeats the news.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "hash.hpp"
#include "types.hpp"

namespace lw {

class PathMtus {
 public:
  // DP-149: a larger size is not tried before 10 min (RFC 8201 section 4: never before 5).
  static constexpr std::uint64_t kLifetimeNs = 600'000'000'000;

  // 0 = nothing known.
  std::uint16_t get(const Ipv6& b4, std::uint64_t now_ns) const {
    if (!any_.load(std::memory_order_relaxed)) return 0;
    for (const Entry& entry : set_of(b4)) {
      const std::uint32_t before = entry.version.load(std::memory_order_acquire);
      const bool match =
          entry.high.load(std::memory_order_relaxed) == b4.high && entry.low.load(std::memory_order_relaxed) == b4.low;
      const std::uint64_t until = entry.until_ns.load(std::memory_order_relaxed);
      const std::uint16_t mtu = entry.mtu.load(std::memory_order_relaxed);
      std::atomic_thread_fence(std::memory_order_acquire);
      if (!match || (before & 1) != 0 || entry.version.load(std::memory_order_relaxed) != before) continue;
      return now_ns < until ? mtu : std::uint16_t{0};
    }
    return 0;
  }

  // A packet too big said `mtu`. Never raises what still holds, but lets it hold on: nothing larger is tried soon after
  // a message, whatever it said (RFC 8201 section 4). True if the path MTU is now lower than before.
  bool lower(const Ipv6& b4, std::uint16_t mtu, std::uint64_t now_ns) {
    const std::uint16_t known = get(b4, now_ns);
    const bool lowered = known == 0 || mtu < known;
    if (!lowered) mtu = known;
    Entry& entry = slot_for(b4, now_ns);
    std::uint32_t version = entry.version.load(std::memory_order_relaxed);
    if ((version & 1) != 0 || !entry.version.compare_exchange_strong(version, version + 1, std::memory_order_acquire)) {
      return false;
    }
    std::atomic_thread_fence(std::memory_order_release);
    entry.high.store(b4.high, std::memory_order_relaxed);
    entry.low.store(b4.low, std::memory_order_relaxed);
    entry.mtu.store(mtu, std::memory_order_relaxed);
    entry.until_ns.store(now_ns + kLifetimeNs, std::memory_order_relaxed);
    entry.version.store(version + 2, std::memory_order_release);
    any_.store(true, std::memory_order_relaxed);
    return lowered;
  }

 private:
  struct Entry {
    std::atomic<std::uint64_t> high{}, low{}, until_ns{};
    std::atomic<std::uint32_t> version{};
    std::atomic<std::uint16_t> mtu{};
  };
  static constexpr std::size_t kSets = 4096, kWays = 4;
  using Set = std::array<Entry, kWays>;

  static std::size_t index(const Ipv6& b4) { return hash::mix(b4.high, b4.low) % kSets; }
  const Set& set_of(const Ipv6& b4) const { return sets_[index(b4)]; }
  // The B4's own entry, else the one that ends first.
  Entry& slot_for(const Ipv6& b4, std::uint64_t now_ns) {
    Set& set = sets_[index(b4)];
    Entry* oldest = &set[0];
    for (Entry& entry : set) {
      if (entry.high.load(std::memory_order_relaxed) == b4.high &&
          entry.low.load(std::memory_order_relaxed) == b4.low) {
        return entry;
      }
      const std::uint64_t until = entry.until_ns.load(std::memory_order_relaxed);
      if (until <= now_ns || until < oldest->until_ns.load(std::memory_order_relaxed)) oldest = &entry;
    }
    return *oldest;
  }

  std::atomic<bool> any_{};
  std::array<Set, kSets> sets_{};
};

}  // namespace lw
