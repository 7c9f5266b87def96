// Cuckoo<Value, Note>: 48-bit key -> (16-bit tag, value); one writer, any number of lock-free readers.
//
// A key has two buckets, the halves of one 64-bit mix. A bucket is one cache line of seven keys and their common
// version (cuckoo_bucket.hpp). Values lie in a second array at the same slot number, notes (for the writer alone) in a
// third. A look-up costs one line for the key, in the second bucket for the few that are not in their first, and one
// for the value. 64 octets for seven keys and 16 for a value make 26.5 octets an entry at a fill of 95 %.
//
// The version lies in the line of the keys because a hit has to check it too: an array of version stripes beside the
// table is one more line for each look-up, and the writer would take these lines from all readers all the time.
//
// What the writer does, in the order in which readers may see it. "V+" is version += 2.
//   insert       V+ of the bucket; value; word.
//   erase        word = 0.
//   move         insert at the new slot; V+ of the old bucket; old word = 0. The way to a free slot is searched
//                (breadth first) before anything is touched, and walked from its free end backwards.
//   replace      old content into `flight`; version + 1 (odd); value; word; version + 1 (even).
// What a reader does: it notes the versions, looks for the word, copies the value, and checks the version.
//   hit          Word of the key, then the value, then the same version as before the word: the value belongs to this
//                very word. Were it a later tenant's value, that tenant's V+ came before it, so the check fails,
//                unless the version had been noted after that V+; but then the word was read after the erase that
//                went before, and cannot have been the old one. A key that leaves and returns to its slot is no
//                exception, which a comparison of keys before and after would not notice.
//   miss         A key that stays in the table is always in one of its buckets, and for a moment of a move in both.
//                A reader finds it in neither only if it moved from the second to the first in between. Then it saw
//                the emptied slot, hence the V+ of the old bucket: the check of both versions fails, and it looks
//                again.
//   odd version  Just one slot of this bucket is being overwritten, and `flight` is what was in it. A reader whose key
//                that is takes flight; other slots are untouched. So a writer that is put to sleep anywhere, here or
//                in the middle of a move, makes no reader wait: readers repeat only when the writer went on.
// Every look-up so returns what the table held at one instant between its start and its end. Versions have 64 bits
// and do not wrap.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "cuckoo_bucket.hpp"
#include "hash.hpp"
#include "pages.hpp"

namespace lw {

template <class Value, class Note>
  requires(std::is_trivially_copyable_v<Value> && std::is_trivially_copyable_v<Note> && sizeof(Value) % 8 == 0)
class Cuckoo {
 public:
  using Slot = std::uint32_t;
  static constexpr Slot kNoSlot = ~Slot{0};
  static constexpr unsigned kBulk = 64;

  struct Found {
    std::uint16_t tag;
    Value value;
  };

  // Room for at least so many slots, which are not all usable: see kFill.
  explicit Cuckoo(std::size_t slots) : buckets_count_(bucket_count(slots)) {
    bucket_pages_ = Pages(buckets_count_ * sizeof(cuckoo::Bucket), Pages::Use::dense);
    value_pages_ = Pages(this->slots() * sizeof(Value), Pages::Use::dense);
    note_pages_ = Pages(this->slots() * sizeof(Note), Pages::Use::dense);
    buckets_ = bucket_pages_.template as<cuckoo::Bucket>();
    values_ = value_pages_.template as<std::uint64_t>();
    notes_ = note_pages_.template as<Note>();
    nodes_.reserve(kMaxNodes);
  }
  Cuckoo(const Cuckoo&) = delete;
  Cuckoo& operator=(const Cuckoo&) = delete;

  std::size_t slots() const { return std::size_t{buckets_count_} * cuckoo::kSlots; }
  std::size_t size() const { return size_.load(std::memory_order_relaxed); }
  std::size_t reader_octets() const { return bucket_pages_.octets() + value_pages_.octets(); }
  std::size_t writer_octets() const { return note_pages_.octets(); }

  // --- readers ---

  bool find(std::uint64_t key, Found& found) const noexcept {
    const Home home = home_of(key);
    for (;;) {
      const std::uint64_t first = cuckoo::get(buckets_[home.first].version);
      const std::uint64_t second = cuckoo::get(buckets_[home.second].version);
      if (find_in(home.first, first, key, found) || find_in(home.second, second, key, found)) return true;
      if (cuckoo::get(buckets_[home.first].version) == first && cuckoo::get(buckets_[home.second].version) == second) {
        return false;
      }
    }
  }

  // Calls take(i, found) for each keys[i] that is in the table; the answer has their bits. n <= kBulk.
  // Second buckets are fetched only for keys that are not in their first: fetching both at once costs a fifth more.
  template <class Take>
  std::uint64_t find_bulk(const std::uint64_t* keys, unsigned n, Take take) const noexcept {
    std::array<Home, kBulk> homes;
    std::array<std::uint8_t, kBulk> at;  // slot in homes[i].first; kSlots = not seen
    std::array<std::uint8_t, kBulk> late;
    for (unsigned i = 0; i < n; ++i) {
      homes[i] = home_of(keys[i]);
      __builtin_prefetch(&buckets_[homes[i].first]);
    }
    unsigned late_count = 0;
    for (unsigned i = 0; i < n; ++i) {
      const unsigned seen = cuckoo::match(buckets_[homes[i].first], keys[i]);
      at[i] = static_cast<std::uint8_t>(std::countr_zero(seen | 1U << cuckoo::kSlots));
      const void* value = cells(slot_of(homes[i].first, at[i]));
      __builtin_prefetch(seen != 0 ? value : &buckets_[homes[i].second]);
      late[late_count] = static_cast<std::uint8_t>(i);
      late_count += seen == 0;
    }
    for (unsigned j = 0; j < late_count; ++j) {
      const unsigned i = late[j];
      homes[i].first = homes[i].second;
      const unsigned seen = cuckoo::match(buckets_[homes[i].second], keys[i]);
      at[i] = static_cast<std::uint8_t>(std::countr_zero(seen | 1U << cuckoo::kSlots));
      __builtin_prefetch(cells(slot_of(homes[i].second, at[i])));
    }
    std::uint64_t hits = 0;
    for (unsigned i = 0; i < n; ++i) {
      Found found;
      // What the scans above saw is a hint; a hit is read under its version here, everything else by find().
      const bool hit =
          (at[i] != cuckoo::kSlots && copy(homes[i].first, at[i], version(homes[i].first), keys[i], found)) ||
          find_again(keys[i], found);
      if (!hit) continue;
      take(i, found);
      hits |= std::uint64_t{1} << i;
    }
    return hits;
  }

  // --- the writer ---

  void prefetch(std::uint64_t key) const {
    const Home home = home_of(key);
    __builtin_prefetch(&buckets_[home.first]);
    __builtin_prefetch(&buckets_[home.second]);
  }

  Slot locate(std::uint64_t key) const {
    const Home home = home_of(key);
    for (const std::uint32_t b : {home.first, home.second}) {
      for (unsigned seen = cuckoo::match(buckets_[b], key); seen != 0; seen &= seen - 1) {
        const auto i = static_cast<unsigned>(std::countr_zero(seen));
        if (buckets_[b].word[i] != 0) return slot_of(b, i);
      }
    }
    return kNoSlot;
  }

  // The key is not in the table and the tag is not 0. kNoSlot: no way to a free slot was found; nothing was changed.
  // An insert may move other keys: slots that were located before it are worth nothing.
  Slot insert(std::uint64_t key, std::uint16_t tag, const Value& value, const Note& note) {
    const Home home = home_of(key);
    Slot slot = free_slot(home.first);
    if (slot == kNoSlot) slot = free_slot(home.second);
    if (slot == kNoSlot) slot = make_room(home);
    if (slot == kNoSlot) return kNoSlot;
    write(slot, cuckoo::word_of(key, tag), value);
    notes_[slot] = note;
    size_.store(size() + 1, std::memory_order_relaxed);
    return slot;
  }

  void replace(Slot slot, std::uint16_t tag, const Value& value) {
    cuckoo::Bucket& bucket = buckets_[slot / cuckoo::kSlots];
    std::uint64_t& word = bucket.word[slot % cuckoo::kSlots];
    cuckoo::put(flight_.word, word);
    store_value(flight_.value.data(), load_value(cells(slot)));
    cuckoo::put(bucket.version, bucket.version + 1);
    store_value(cells(slot), value);
    cuckoo::put(word, cuckoo::word_of(cuckoo::key_of(word), tag));
    cuckoo::put(bucket.version, bucket.version + 1);
  }

  void erase(Slot slot) {
    cuckoo::put(word_at(slot), 0);
    size_.store(size() - 1, std::memory_order_relaxed);
  }

  bool occupied(Slot slot) const { return word_at(slot) != 0; }
  std::uint64_t key(Slot slot) const { return cuckoo::key_of(word_at(slot)); }
  std::uint16_t tag(Slot slot) const { return cuckoo::tag_of(word_at(slot)); }
  Value value(Slot slot) const { return load_value(cells(slot)); }
  Note& note(Slot slot) { return notes_[slot]; }
  const Note& note(Slot slot) const { return notes_[slot]; }

 private:
  using Cells = std::array<std::uint64_t, sizeof(Value) / 8>;

  struct Home {
    std::uint32_t first;
    std::uint32_t second;
  };
  struct Node {  // of the search for a free slot
    std::uint32_t bucket;
    std::uint32_t parent;
    std::uint8_t slot;  // of the parent's bucket, whose key has this bucket as its other one
  };
  struct Flight {
    std::uint64_t word;
    Cells value;
  };
  // A path of four moves reaches 7 + 49 + 343 + 2401 buckets: more never helped below a fill of 99 %.
  static constexpr std::size_t kMaxNodes = 2048;
  static constexpr std::uint32_t kRoot = ~std::uint32_t{0};

  static std::uint32_t bucket_count(std::size_t slots) {
    const std::size_t buckets = (slots + cuckoo::kSlots - 1) / cuckoo::kSlots;
    if (buckets >= kNoSlot / cuckoo::kSlots) throw std::length_error("cuckoo table: too many slots");
    return buckets < 2 ? 2 : static_cast<std::uint32_t>(buckets);
  }

  // Two halves of one mix, each scaled to any number of buckets by a multiplication.
  Home home_of(std::uint64_t key) const {
    const std::uint64_t mixed = hash::mix(key, 0);
    const auto first = static_cast<std::uint32_t>((mixed & 0xffffffff) * buckets_count_ >> 32);
    auto second = static_cast<std::uint32_t>((mixed >> 32) * buckets_count_ >> 32);
    if (second == first) second = first + 1 == buckets_count_ ? 0 : first + 1;
    return {first, second};
  }
  static Slot slot_of(std::uint32_t bucket, unsigned i) { return bucket * cuckoo::kSlots + i; }
  std::uint64_t* cells(Slot slot) const { return values_ + std::size_t{slot} * std::tuple_size_v<Cells>; }
  std::uint64_t& word_at(Slot slot) const { return buckets_[slot / cuckoo::kSlots].word[slot % cuckoo::kSlots]; }
  std::uint64_t version(std::uint32_t bucket) const { return cuckoo::get(buckets_[bucket].version); }

  static Value load_value(const std::uint64_t* from) {
    Cells copy;
    for (std::size_t i = 0; i < copy.size(); ++i) copy[i] = cuckoo::get(from[i]);
    return std::bit_cast<Value>(copy);
  }
  static void store_value(std::uint64_t* to, const Value& value) {
    const auto copy = std::bit_cast<Cells>(value);
    for (std::size_t i = 0; i < copy.size(); ++i) cuckoo::put(to[i], copy[i]);
  }

  // One slot under a version that was noted before.
  bool copy(std::uint32_t b, unsigned i, std::uint64_t noted, std::uint64_t key, Found& found) const {
    const std::uint64_t word = cuckoo::get(buckets_[b].word[i]);
    if (cuckoo::key_of(word) != key || word == 0) return false;
    found = {cuckoo::tag_of(word), load_value(cells(slot_of(b, i)))};
    if ((noted & 1) != 0) [[unlikely]] {
      const std::uint64_t flown = cuckoo::get(flight_.word);
      if (cuckoo::key_of(flown) == key) found = {cuckoo::tag_of(flown), load_value(flight_.value.data())};
    }
    return version(b) == noted;
  }

  bool find_in(std::uint32_t b, std::uint64_t noted, std::uint64_t key, Found& found) const {
    for (unsigned seen = cuckoo::match(buckets_[b], key); seen != 0; seen &= seen - 1) {
      if (copy(b, static_cast<unsigned>(std::countr_zero(seen)), noted, key, found)) return true;
    }
    return false;
  }

  [[gnu::noinline]] bool find_again(std::uint64_t key, Found& found) const noexcept { return find(key, found); }

  void bump(std::uint32_t bucket) { cuckoo::put(buckets_[bucket].version, buckets_[bucket].version + 2); }

  void write(Slot slot, std::uint64_t word, const Value& value) {
    bump(slot / cuckoo::kSlots);
    store_value(cells(slot), value);
    cuckoo::put(word_at(slot), word);
  }

  void move(Slot from, Slot to) {
    write(to, word_at(from), load_value(cells(from)));
    notes_[to] = notes_[from];
    bump(from / cuckoo::kSlots);
    cuckoo::put(word_at(from), 0);
  }

  Slot free_slot(std::uint32_t bucket) const {
    const unsigned free = cuckoo::empty_slots(buckets_[bucket]);
    return free == 0 ? kNoSlot : slot_of(bucket, static_cast<unsigned>(std::countr_zero(free)));
  }

  // Breadth first over "this key could go to its other bucket", whichever of its two that is.
  Slot make_room(Home home) {
    nodes_.assign({Node{home.first, kRoot, 0}, Node{home.second, kRoot, 0}});
    for (std::uint32_t n = 0; n < nodes_.size(); ++n) {
      const std::uint32_t bucket = nodes_[n].bucket;
      std::array<std::uint32_t, cuckoo::kSlots> next;
      for (unsigned i = 0; i < cuckoo::kSlots; ++i) {
        const Home of = home_of(cuckoo::key_of(buckets_[bucket].word[i]));
        next[i] = of.first == bucket ? of.second : of.first;
        __builtin_prefetch(&buckets_[next[i]]);
      }
      for (unsigned i = 0; i < cuckoo::kSlots; ++i) {
        if (on_the_way(n, next[i])) continue;
        const Slot free = free_slot(next[i]);
        if (free != kNoSlot) return shift(n, i, free);
        if (nodes_.size() < kMaxNodes) nodes_.push_back({next[i], n, static_cast<std::uint8_t>(i)});
      }
    }
    return kNoSlot;
  }

  // A way that crosses itself would move one key twice, the second time from where it no longer is.
  bool on_the_way(std::uint32_t node, std::uint32_t bucket) const {
    for (; node != kRoot; node = nodes_[node].parent) {
      if (nodes_[node].bucket == bucket) return true;
    }
    return false;
  }

  // Moves each key of the way one bucket on, the last first; returns the slot that came free at its start.
  Slot shift(std::uint32_t node, unsigned i, Slot hole) {
    for (;;) {
      const Slot from = slot_of(nodes_[node].bucket, i);
      move(from, hole);
      hole = from;
      if (nodes_[node].parent == kRoot) return hole;
      i = nodes_[node].slot;
      node = nodes_[node].parent;
    }
  }

  std::uint32_t buckets_count_;
  cuckoo::Bucket* buckets_{};
  std::uint64_t* values_{};
  Note* notes_{};
  alignas(64) Flight flight_{};
  std::atomic<std::size_t> size_{};
  std::vector<Node> nodes_;
  Pages bucket_pages_;
  Pages value_pages_;
  Pages note_pages_;
};

}  // namespace lw
