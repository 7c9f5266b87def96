// Where a key of a cuckoo table may be, and how keys have to move on to make room for one more.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

#include "cuckoo_bucket.hpp"
#include "hash.hpp"

namespace lw::cuckoo {

using Slot = std::uint32_t;
inline constexpr Slot kNoSlot = ~Slot{0};

struct Home {
  std::uint32_t first;
  std::uint32_t second;
};

inline std::uint32_t bucket_count(std::size_t slots) {
  const std::size_t buckets = (slots + kSlots - 1) / kSlots;
  if (buckets >= kNoSlot / kSlots) throw std::length_error("cuckoo table: too many slots");
  return buckets < 2 ? 2 : static_cast<std::uint32_t>(buckets);
}

// Two halves of one mix, each scaled to any number of buckets by a multiplication. Never the same bucket twice.
// Both factors depend on the key: with a constant for one, keys in a lattice (every 2,048th address, four PSIDs each)
// came in lattices of buckets, and the table was full at 83 %. So it fills to 98 % with every stride.
inline std::uint64_t mixed(std::uint64_t key) { return hash::mix(key, std::rotl(key, 40)); }
[[gnu::always_inline]] inline Home home_of(std::uint64_t key, std::uint32_t buckets) {
  const std::uint64_t mixed = cuckoo::mixed(key);
  const auto first = static_cast<std::uint32_t>((mixed & 0xffffffff) * buckets >> 32);
  auto second = static_cast<std::uint32_t>((mixed >> 32) * buckets >> 32);
  if (second == first) second = first + 1 == buckets ? 0 : first + 1;
  return {first, second};
}

// In which of so many equal parts of the table the first bucket is.
inline std::uint32_t part_of(std::uint64_t key, std::uint32_t parts) {
  return static_cast<std::uint32_t>((cuckoo::mixed(key) & 0xffffffff) * parts >> 32);
}

inline Slot slot_of(std::uint32_t bucket, unsigned i) { return bucket * kSlots + i; }

inline Slot free_slot(std::uint32_t bucket, const Bucket& line) {
  const unsigned free = empty_slots(line);
  return free == 0 ? kNoSlot : slot_of(bucket, static_cast<unsigned>(std::countr_zero(free)));
}

// Breadth first over "this key could go to its other bucket", whichever of its two that is: a key that was moved to
// its second bucket may return to its first. Looks only, and changes nothing.
// The first way found is a shortest one, so it comes to no bucket twice and moves no key twice: from the bucket's first
// visit all that its keys lead to was looked at before anything behind them.
class WaySearch {
 public:
  WaySearch() { nodes_.reserve(kMaxNodes); }

  // The other buckets of the keys of a full one, on their way to the core.
  static std::array<std::uint32_t, kSlots> others_of(std::uint32_t bucket, const Bucket* buckets, std::uint32_t count) {
    std::array<std::uint32_t, kSlots> next;
    for (unsigned i = 0; i < kSlots; ++i) {
      const Home of = home_of(key_of(buckets[bucket].word[i]), count);
      next[i] = of.first == bucket ? of.second : of.first;
      __builtin_prefetch(&buckets[next[i]]);
    }
    return next;
  }

  // Slots to be moved along: way[0] is free, the key of way[1] may go there, that of way[2] to way[1], and so on; the
  // last is in one of the two buckets asked for, which are full. Empty: no way found. Valid until the next search.
  std::span<const Slot> from(Home home, const Bucket* buckets, std::uint32_t count) {
    nodes_.clear();
    nodes_.push_back({home.first, kRoot, 0});
    nodes_.push_back({home.second, kRoot, 0});
    for (std::uint32_t n = 0; n < nodes_.size(); ++n) {
      const std::array<std::uint32_t, kSlots> next = others_of(nodes_[n].bucket, buckets, count);
      for (unsigned i = 0; i < kSlots; ++i) {
        const Slot free = free_slot(next[i], buckets[next[i]]);
        if (free != kNoSlot) return write_down(n, i, free);
        if (nodes_.size() < kMaxNodes) nodes_.push_back({next[i], n, static_cast<std::uint8_t>(i)});
      }
    }
    return {};
  }

 private:
  struct Node {
    std::uint32_t bucket;
    std::uint32_t parent;
    std::uint8_t slot;  // of the parent's bucket, whose key has this bucket as its other one
  };
  static constexpr std::uint32_t kRoot = ~std::uint32_t{0};
  // Ways of up to three moves, and the first of those with four. It fills a table of a million slots to 99.5 %.
  static constexpr std::size_t kMaxNodes = 2048;

  std::span<const Slot> write_down(std::uint32_t node, unsigned i, Slot free) {
    way_.assign({free});
    for (; node != kRoot; i = nodes_[node].slot, node = nodes_[node].parent) {
      way_.push_back(slot_of(nodes_[node].bucket, i));
    }
    return way_;
  }

  std::vector<Node> nodes_;
  std::vector<Slot> way_;
};

}  // namespace lw::cuckoo
