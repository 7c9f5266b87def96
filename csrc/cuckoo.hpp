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
#include <cstddef>
#include <cstdint>
#include <span>
#include <tuple>
#include <type_traits>

#include "cuckoo_bucket.hpp"
#include "cuckoo_scan.hpp"
#include "cuckoo_way.hpp"
#include "pages.hpp"

namespace lw {

template <class Value, class Note>
  requires(std::is_trivially_copyable_v<Value> && std::is_trivially_copyable_v<Note> && sizeof(Value) % 8 == 0)
class Cuckoo {
 public:
  using Slot = cuckoo::Slot;
  static constexpr Slot kNoSlot = cuckoo::kNoSlot;
  static constexpr unsigned kBulk = 64;

  struct Found {
    std::uint16_t tag;
    Value value;
  };

  // At least so many slots. They can be filled to 95 % and more, but not all of them.
  explicit Cuckoo(std::size_t slots) : count_(cuckoo::bucket_count(slots)) {
    bucket_pages_ = Pages(count_ * sizeof(cuckoo::Bucket), Pages::Use::dense);
    value_pages_ = Pages(this->slots() * sizeof(Value), Pages::Use::dense);
    note_pages_ = Pages(this->slots() * sizeof(Note), Pages::Use::dense);
    buckets_ = bucket_pages_.template as<cuckoo::Bucket>();
    values_ = value_pages_.template as<std::uint64_t>();
    notes_ = note_pages_.template as<Note>();
  }
  Cuckoo(const Cuckoo&) = delete;
  Cuckoo& operator=(const Cuckoo&) = delete;

  std::size_t slots() const { return std::size_t{count_} * cuckoo::kSlots; }
  std::size_t size() const { return size_.load(std::memory_order_relaxed); }
  std::size_t reader_octets() const { return bucket_pages_.octets() + value_pages_.octets(); }
  std::size_t writer_octets() const { return note_pages_.octets(); }
  // Buckets, values and notes; not touched before the first insert.
  std::array<std::span<std::byte>, 3> memory() const {
    return {bucket_pages_.range(), value_pages_.range(), note_pages_.range()};
  }

  // --- readers ---

  bool find(std::uint64_t key, Found& found) const noexcept {
    return cuckoo::scan() == cuckoo::Scan::avx2 ? find_avx2(key, found) : find_portable(key, found);
  }

  // Up to kBulk look-ups at a time: each is asked for, all are located, each is taken. Whatever lies between gives the
  // cache lines time to come.
  struct Query {
    std::array<std::uint64_t, kBulk> keys;
    std::array<cuckoo::Home, kBulk> homes;  // once located, first is the bucket that `at` is in
    std::array<std::uint8_t, kBulk> at;     // slot in it; kSlots = not seen
  };

  [[gnu::always_inline]] void ask(Query& query, unsigned i, std::uint64_t key) const noexcept {
    const Home home = home_of(key);
    __builtin_prefetch(&buckets_[home.first]);
    query.keys[i] = key;
    query.homes[i] = home;
  }

  void locate(Query& query, unsigned n) const noexcept {
    if (cuckoo::scan() != cuckoo::Scan::avx2) [[unlikely]] {
      return locate_portable(query, n);
    }
    locate_avx2(query, n);
  }

  // In the place of locate(): every key is left to find(). For measurements.
  static void locate_none(Query& query) noexcept { query.at.fill(cuckoo::kSlots); }

  // What locate() saw is a hint; a hit is read under its version here. Whatever has to be looked up anew, a miss too,
  // is false: find() knows.
  [[gnu::always_inline]] bool take_seen(const Query& query, unsigned i, Found& found) const noexcept {
    const std::uint32_t bucket = query.homes[i].first;
    const unsigned at = query.at[i];
    return at != cuckoo::kSlots && copy(bucket, at, version_of(bucket), query.keys[i], found);
  }

  // The three steps in one. Calls take(i, found) for each keys[i] that is in the table; the answer has their bits.
  template <class Take>
  std::uint64_t find_bulk(const std::uint64_t* keys, unsigned n, Take take_one) const noexcept {
    Query query;
    for (unsigned i = 0; i < n; ++i) ask(query, i, keys[i]);
    locate(query, n);
    std::uint64_t hits = 0;
    for (unsigned i = 0; i < n; ++i) {
      Found found;
      if (!take_seen(query, i, found) && !find_again(keys[i], found)) continue;
      take_one(i, found);
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

  // For inserts in the order of the table: the first bucket, and where its values and notes are.
  void prefetch_first(std::uint64_t key) const {
    const std::uint32_t bucket = home_of(key).first;
    const Slot slot = cuckoo::slot_of(bucket, 0);
    __builtin_prefetch(&buckets_[bucket], 1);
    __builtin_prefetch(cells(slot), 1);
    __builtin_prefetch(cells(slot + cuckoo::kSlots - 1), 1);
    prefetch_note(slot);
  }
  void prefetch_second(std::uint64_t key) const { __builtin_prefetch(&buckets_[home_of(key).second], 1); }
  // For an insert of a key whose first bucket is full, once prefetch_second() is done: the slot that is free in the
  // second one now, or where else the keys of the first one may go.
  void prefetch_room(std::uint64_t key) const {
    const Home home = home_of(key);
    const Slot slot = free_slot(home.second);
    if (slot != kNoSlot) return prefetch_slot(slot);
    (void)cuckoo::WaySearch::others_of(home.first, buckets_, count_);
  }

  // For what is known of a slot; a slot whose key was not looked at just now has its bucket far away as well.
  void prefetch_slot(Slot slot) const {
    __builtin_prefetch(&word_at(slot));
    __builtin_prefetch(cells(slot));
    prefetch_note(slot);
  }
  void prefetch_note(Slot slot) const { __builtin_prefetch(&notes_[slot], 1); }

  Slot locate(std::uint64_t key) const {
    return cuckoo::scan() == cuckoo::Scan::avx2 ? slot_avx2(key) : slot_portable(key);
  }

  // The key is not in the table and the tag is not 0. kNoSlot: no way to a free slot was found; nothing was changed.
  // An insert may move other keys: slots that were located before it are worth nothing.
  Slot insert(std::uint64_t key, std::uint16_t tag, const Value& value, const Note& note) {
    const Home home = home_of(key);
    Slot slot = free_slot(home.first);
    if (slot == kNoSlot) slot = free_slot(home.second);
    if (slot == kNoSlot) slot = make_room(home);
    if (slot != kNoSlot) fill(slot, key, tag, value, note);
    return slot;
  }
  // The same, if there is room in the first bucket; false: nothing was done.
  bool insert_first(std::uint64_t key, std::uint16_t tag, const Value& value, const Note& note) {
    const Slot slot = free_slot(home_of(key).first);
    if (slot != kNoSlot) fill(slot, key, tag, value, note);
    return slot != kNoSlot;
  }

  // Keys that were moved from slot to slot in the life of the table.
  std::uint64_t moves() const { return moves_; }

  void replace(Slot slot, std::uint16_t tag, const Value& value) {
    cuckoo::Bucket& bucket = buckets_[slot / cuckoo::kSlots];
    std::uint64_t& word = bucket.word[slot % cuckoo::kSlots];
    cuckoo::put(flight_.word, word);
    store_value(flight_.value.data(), cuckoo::copy_of<Value>(cells(slot)));
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
  Value value(Slot slot) const { return cuckoo::copy_of<Value>(cells(slot)); }
  Note& note(Slot slot) { return notes_[slot]; }
  const Note& note(Slot slot) const { return notes_[slot]; }

 private:
  using Home = cuckoo::Home;
  using Cells = std::array<std::uint64_t, sizeof(Value) / 8>;

  struct Flight {
    std::uint64_t word;
    alignas(cuckoo::kCopied) Cells value;
  };
  Home home_of(std::uint64_t key) const { return cuckoo::home_of(key, count_); }
  Slot free_slot(std::uint32_t bucket) const { return cuckoo::free_slot(bucket, buckets_[bucket]); }
  std::uint64_t* cells(Slot slot) const { return values_ + std::size_t{slot} * std::tuple_size_v<Cells>; }
  std::uint64_t& word_at(Slot slot) const { return buckets_[slot / cuckoo::kSlots].word[slot % cuckoo::kSlots]; }
  std::uint64_t version_of(std::uint32_t bucket) const { return cuckoo::get(buckets_[bucket].version); }

  static void store_value(std::uint64_t* to, const Value& value) {
    const auto copy = std::bit_cast<Cells>(value);
    for (std::size_t i = 0; i < copy.size(); ++i) cuckoo::put(to[i], copy[i]);
  }

  // One slot under a version that was noted before.
  [[gnu::always_inline]] bool copy(std::uint32_t b, unsigned i, std::uint64_t noted, std::uint64_t key,
                                   Found& found) const {
    const cuckoo::Bucket& bucket = buckets_[b];
    const std::uint64_t word = cuckoo::get(bucket.word[i]);
    if (cuckoo::key_of(word) != key || word == 0) return false;
    found = {cuckoo::tag_of(word), cuckoo::copy_of<Value>(cells(cuckoo::slot_of(b, i)))};
    if ((noted & 1) != 0) [[unlikely]] {
      const std::uint64_t flown = cuckoo::get(flight_.word);
      if (cuckoo::key_of(flown) == key) found = {cuckoo::tag_of(flown), cuckoo::copy_of<Value>(flight_.value.data())};
    }
    return cuckoo::get(bucket.version) == noted;
  }

  // What searches buckets, by how they are searched.

  // Second buckets are fetched only for keys that are not in their first: fetching both at once costs a fifth more.
  template <class By>
  [[gnu::always_inline]] void locate_by(Query& query, unsigned n) const noexcept {
    std::array<std::uint8_t, kBulk> late;
    unsigned late_count = 0;
    const cuckoo::Bucket* buckets = buckets_;  // stores of octets might change anything else
    const std::uint64_t* values = values_;
    constexpr auto kCells = std::tuple_size_v<Cells>;
    for (unsigned i = 0; i < n; ++i) {
      const Home home = query.homes[i];
      const unsigned seen = By::match(buckets[home.first], query.keys[i]);
      const auto at = static_cast<unsigned>(std::countr_zero(seen | 1U << cuckoo::kSlots));
      query.at[i] = static_cast<std::uint8_t>(at);
      const void* value = values + std::size_t{cuckoo::slot_of(home.first, at)} * kCells;
      __builtin_prefetch(seen != 0 ? value : &buckets[home.second]);
      late[late_count] = static_cast<std::uint8_t>(i);
      late_count += seen == 0;
    }
    for (unsigned j = 0; j < late_count; ++j) {
      const unsigned i = late[j];
      const std::uint32_t second = query.homes[i].second;
      const unsigned seen = By::match(buckets[second], query.keys[i]);
      const auto at = static_cast<unsigned>(std::countr_zero(seen | 1U << cuckoo::kSlots));
      query.homes[i].first = second;
      query.at[i] = static_cast<std::uint8_t>(at);
      __builtin_prefetch(values + std::size_t{cuckoo::slot_of(second, at)} * kCells);
    }
  }

  template <class By>
  [[gnu::always_inline]] bool find_in(std::uint32_t b, std::uint64_t noted, std::uint64_t key, Found& found) const {
    for (unsigned seen = By::match(buckets_[b], key); seen != 0; seen &= seen - 1) {
      if (copy(b, static_cast<unsigned>(std::countr_zero(seen)), noted, key, found)) return true;
    }
    return false;
  }

  template <class By>
  [[gnu::always_inline]] bool find_by(std::uint64_t key, Found& found) const {
    const Home home = home_of(key);
    for (;;) {
      const std::uint64_t first = version_of(home.first);
      const std::uint64_t second = version_of(home.second);
      if (find_in<By>(home.first, first, key, found) || find_in<By>(home.second, second, key, found)) return true;
      if (version_of(home.first) == first && version_of(home.second) == second) return false;
    }
  }

  template <class By>
  [[gnu::always_inline]] Slot slot_by(std::uint64_t key) const {
    const Home home = home_of(key);
    for (const std::uint32_t b : {home.first, home.second}) {
      for (unsigned seen = By::match(buckets_[b], key); seen != 0; seen &= seen - 1) {
        const auto i = static_cast<unsigned>(std::countr_zero(seen));
        if (buckets_[b].word[i] != 0) return cuckoo::slot_of(b, i);
      }
    }
    return kNoSlot;
  }

  [[gnu::noinline]] void locate_portable(Query& query, unsigned n) const noexcept {
    locate_by<cuckoo::PortableScan>(query, n);
  }
  [[gnu::noinline]] bool find_portable(std::uint64_t key, Found& found) const noexcept {
    return find_by<cuckoo::PortableScan>(key, found);
  }
  [[gnu::noinline]] Slot slot_portable(std::uint64_t key) const noexcept { return slot_by<cuckoo::PortableScan>(key); }
  LW_AVX2 void locate_avx2(Query& query, unsigned n) const noexcept { locate_by<cuckoo::Avx2Scan>(query, n); }
  LW_AVX2 bool find_avx2(std::uint64_t key, Found& found) const noexcept {
    return find_by<cuckoo::Avx2Scan>(key, found);
  }
  LW_AVX2 Slot slot_avx2(std::uint64_t key) const noexcept { return slot_by<cuckoo::Avx2Scan>(key); }

  [[gnu::noinline]] bool find_again(std::uint64_t key, Found& found) const noexcept { return find(key, found); }

  void bump(std::uint32_t bucket) { cuckoo::put(buckets_[bucket].version, buckets_[bucket].version + 2); }

  void write(Slot slot, std::uint64_t word, const Value& value) {
    bump(slot / cuckoo::kSlots);
    store_value(cells(slot), value);
    cuckoo::put(word_at(slot), word);
  }

  void fill(Slot slot, std::uint64_t key, std::uint16_t tag, const Value& value, const Note& note) {
    write(slot, cuckoo::word_of(key, tag), value);
    notes_[slot] = note;
    size_.store(size() + 1, std::memory_order_relaxed);
  }

  void move(Slot from, Slot to) {
    write(to, word_at(from), cuckoo::copy_of<Value>(cells(from)));
    notes_[to] = notes_[from];
    bump(from / cuckoo::kSlots);
    cuckoo::put(word_at(from), 0);
  }

  Slot make_room(Home home) {
    const std::span<const Slot> way = search_.from(home, buckets_, count_);
    if (way.empty()) return kNoSlot;
    for (std::size_t i = 1; i < way.size(); ++i) move(way[i], way[i - 1]);
    moves_ += way.size() - 1;
    return way.back();
  }

  std::uint32_t count_;
  cuckoo::Bucket* buckets_{};
  std::uint64_t* values_{};
  Note* notes_{};
  alignas(64) Flight flight_{};
  std::atomic<std::size_t> size_{};
  std::uint64_t moves_{};
  cuckoo::WaySearch search_;
  Pages bucket_pages_;
  Pages value_pages_;
  Pages note_pages_;
};

}  // namespace lw
