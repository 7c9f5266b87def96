// Look-ups, removal and dumps; binding_batch.cpp has the way in.
#include "binding_table.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <iterator>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>

#include "binding_seen.hpp"

namespace lw {

namespace {

constexpr std::uint64_t packed(BindingKey key) { return key.packed(); }
constexpr Ipv4 address_of(std::uint64_t key) { return static_cast<Ipv4>(key >> 16); }

bool less(const Ipv6& a, const Ipv6& b) { return std::tie(a.high, a.low) < std::tie(b.high, b.low); }

// 95 % of a table of any size can be filled; a handful of buckets needs room for the luck of the draw as well.
std::size_t slots_for(std::size_t bindings) {
  constexpr std::size_t kSpare = 4 * cuckoo::kSlots;
  return static_cast<std::size_t>(std::ceil(static_cast<double>(bindings) / 0.95)) + kSpare;
}

}  // namespace

std::string_view name_of(Reason reason) {
  static constexpr std::array<std::string_view, 11> kNames = {
      "bad_params",         "psid_range", "bad_address", "own_address", "overlap",  "other_params_on_address",
      "duplicate_in_batch", "outranked",  "too_many_br", "table_full",  "not_bound"};
  static_assert(kNames.size() == static_cast<std::size_t>(Reason::not_bound) + 1);
  return kNames[static_cast<std::size_t>(reason)];
}

std::unique_ptr<BindingTable::Entries> BindingTable::make_entries(std::size_t max_bindings) {
  auto entries = std::make_unique<Entries>(slots_for(max_bindings));
  for (const auto range : entries->memory()) home_.place(range);
  return entries;
}

BindingTable::BindingTable(std::size_t max_bindings, Own own, bool accounts, numa::Nodes nodes)
    : max_bindings_(max_bindings),
      home_(std::move(nodes)),
      own_(std::move(own)),
      entries_(make_entries(max_bindings)),
      seen_(entries_.get()),
      accounts_(accounts ? std::make_unique<BindingAccounts>(max_bindings) : nullptr),
      addresses_(home_),
      br_pages_(kMaxBr * sizeof(Ipv6), Pages::Use::sparse),
      br_(br_pages_.as<Ipv6>()) {
  std::ranges::sort(own_.v4);
  std::ranges::sort(own_.v6, less);
  home_.place(br_pages_.range());
  if (!accounts_) return;
  for (const auto range : accounts_->index_memory()) home_.place(range);
}

bool BindingTable::find(BindingKey key, Softwire& out) const noexcept {
  Entries::Found found;
  if (formula_ != nullptr) [[unlikely]] {
    const Found made = formula_(key);
    out = {made.b4, *made.br};
    return true;
  }
  if (!seen().find(packed(key), found)) return false;
  out = {found.value, br_[found.tag]};
  return true;
}

std::uint64_t BindingTable::find_bulk(const BindingKey* keys, unsigned n, Softwire* out) const noexcept {
  static_assert(kBulk == Entries::kBulk);
  if (formula_ != nullptr) [[unlikely]] {
    std::uint64_t bound = 0;
    for (unsigned i = 0; i < n; ++i) bound |= std::uint64_t{find(keys[i], out[i])} << i;
    return bound;
  }
  std::array<std::uint64_t, kBulk> words;
  for (unsigned i = 0; i < n; ++i) words[i] = packed(keys[i]);
  return seen().find_bulk(words.data(), n,
                          [&](unsigned i, const Entries::Found& found) { out[i] = {found.value, br_[found.tag]}; });
}

bool BindingTable::take_anew(const Query& query, unsigned i, Found& found) const noexcept {
  const std::uint64_t key = query.asked_.keys[i];
  if (formula_ != nullptr) [[unlikely]] {
    found = formula_({address_of(key), static_cast<std::uint16_t>(key)});
    return true;
  }
  Entries::Found entry;
  if (!query.in_->find(key, entry)) return false;
  found = {entry.value, &br_[entry.tag]};
  return true;
}

bool BindingTable::is_own(Ipv4 address) const { return std::ranges::binary_search(own_.v4, address); }
bool BindingTable::is_own(const Ipv6& address) const { return std::ranges::binary_search(own_.v6, address, less); }

// Whether what stands in the slot is safe from this source.
bool BindingTable::outranks(Entries::Slot slot, Source source) const { return entries_->note(slot).source < source; }

std::optional<Reason> BindingTable::judge_unbind(BindingKey key, Source source, Seen& seen) {
  if (addresses_.at(key.ipv4).use() == AddressUse::whole) key.psid = 0;
  const Entries::Slot slot = entries_->locate(packed(key));
  if (slot == Entries::kNoSlot) return Reason::not_bound;
  if (!seen.insert(packed(key))) return Reason::duplicate_in_batch;
  if (outranks(slot, source)) return Reason::outranked;
  doomed_.push_back(slot);  // nothing moves before these are erased
  return std::nullopt;
}

Report BindingTable::unbind(std::span<const BindingKey> keys, Source source) {
  const std::scoped_lock lock(writer_);
  constexpr std::size_t kAhead = 16;
  Report report;
  Seen seen(keys.size());
  doomed_.clear();
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (i + kAhead < keys.size()) entries_->prefetch(packed(keys[i + kAhead]));
    if (const auto why = judge_unbind(keys[i], source, seen)) report.refused.push_back({i, *why});
  }
  if (!report.ok()) return report;
  for (const Entries::Slot slot : doomed_) remove(slot);
  report.removed = doomed_.size();
  if (report.removed > 0) changed();
  return report;
}

// The class before the entry: a class that readers see never stands for an address without bindings.
void BindingTable::remove(Entries::Slot slot) {
  addresses_.remove(address_of(entries_->key(slot)));
  count(entries_->note(slot).source, -1);
  erase(slot);
}

void BindingTable::erase(Entries::Slot slot) {
  if (accounts_) accounts_->close(entries_->key(slot));
  entries_->erase(slot);
}

std::vector<BindingRow> BindingTable::sweep(Source source, std::uint32_t generation) {
  const std::scoped_lock lock(writer_);
  std::vector<BindingRow> removed;
  for (Entries::Slot slot = 0; slot < entries_->slots(); ++slot) {
    const Note& note = entries_->note(slot);
    if (note.source != source || note.generation == generation || !entries_->occupied(slot)) continue;
    removed.push_back(row_at(slot));
    remove(slot);
  }
  if (!removed.empty()) changed();
  return removed;
}

BindingRow BindingTable::row_at(Entries::Slot slot) const {
  const std::uint64_t key = entries_->key(slot);
  const PortSetParams params = addresses_.at(address_of(key)).params();
  return {.ipv4 = address_of(key),
          .psid = static_cast<std::uint16_t>(key),
          .psid_len = params.length,
          .psid_offset = params.offset,
          .b4 = std::bit_cast<std::array<std::uint8_t, 16>>(entries_->value(slot)),
          .br = std::bit_cast<std::array<std::uint8_t, 16>>(br_[entries_->tag(slot)])};
}

bool BindingTable::set_own(Own own) {
  std::ranges::sort(own.v4);
  std::ranges::sort(own.v6, less);
  const std::scoped_lock lock(writer_);
  std::swap(own_, own);
  const auto bound = [this](Ipv4 address) { return addresses_.at(address).use() != AddressUse::none; };
  bool taken = std::ranges::any_of(own_.v4, bound);
  for (Entries::Slot slot = 0; slot < entries_->slots() && !taken; ++slot) {
    taken = entries_->occupied(slot) && is_own(entries_->value(slot));
  }
  if (taken) std::swap(own_, own);
  return !taken;
}

std::size_t BindingTable::count_other_brs(std::span<const Ipv6> served) const {
  const std::scoped_lock lock(writer_);
  std::vector<bool> good(br_count_);
  for (std::size_t tag = 1; tag < br_count_; ++tag) good[tag] = std::ranges::find(served, br_[tag]) != served.end();
  std::size_t others = 0;
  for (Entries::Slot slot = 0; slot < entries_->slots(); ++slot) {
    others += entries_->occupied(slot) && !good[entries_->tag(slot)];
  }
  return others;
}

void BindingTable::holders(std::span<const BindingKey> keys, BindingRow* rows, std::uint8_t* sources) const {
  const std::scoped_lock lock(writer_);
  std::array<std::uint64_t, kBulk> words;
  std::array<Entries::Slot, kBulk> slots;
  for (std::size_t first = 0; first < keys.size(); first += kBulk) {
    const std::size_t n = std::min<std::size_t>(kBulk, keys.size() - first);
    for (std::size_t i = 0; i < n; ++i) {
      BindingKey key = keys[first + i];
      if (addresses_.at(key.ipv4).use() == AddressUse::whole) key.psid = 0;
      words[i] = packed(key);
      entries_->prefetch(words[i]);
    }
    for (std::size_t i = 0; i < n; ++i) {
      slots[i] = entries_->locate(words[i]);
      if (slots[i] != Entries::kNoSlot) entries_->prefetch_slot(slots[i]);
    }
    for (std::size_t i = 0; i < n; ++i) {
      const bool bound = slots[i] != Entries::kNoSlot;
      rows[first + i] = bound ? row_at(slots[i]) : BindingRow{};
      sources[first + i] = bound ? static_cast<std::uint8_t>(entries_->note(slots[i]).source) : kNoSource;
    }
  }
}

std::size_t BindingTable::dump(std::size_t from, std::size_t limit, std::vector<BindingRow>& out,
                               std::vector<std::uint8_t>& sources) const {
  const std::scoped_lock lock(writer_);
  std::size_t at = from;
  for (std::size_t rows = 0; at < entries_->slots() && rows < limit; ++at) {
    const auto slot = static_cast<Entries::Slot>(at);
    if (!entries_->occupied(slot)) continue;
    out.push_back(row_at(slot));
    sources.push_back(static_cast<std::uint8_t>(entries_->note(slot).source));
    ++rows;
  }
  return at < entries_->slots() ? at : 0;
}

std::vector<BindingRow> BindingTable::dump() const {
  const std::scoped_lock lock(writer_);
  std::vector<BindingRow> rows;
  rows.reserve(entries_->size());
  for (Entries::Slot slot = 0; slot < entries_->slots(); ++slot) {
    if (entries_->occupied(slot)) rows.push_back(row_at(slot));
  }
  return rows;
}

BindingTable::Homes BindingTable::homes(std::span<const BindingKey> keys) const {
  const std::scoped_lock lock(writer_);
  const auto buckets = static_cast<std::uint32_t>(entries_->slots() / cuckoo::kSlots);
  Homes found;
  for (const BindingKey& one : keys) {
    const std::uint64_t key = packed(one);
    const Entries::Slot slot = entries_->locate(key);
    if (slot == Entries::kNoSlot) continue;
    ++found.bound;
    found.first += slot / cuckoo::kSlots == cuckoo::home_of(key, buckets).first;
  }
  return found;
}

Account* BindingTable::open_book() const {
  const std::scoped_lock lock(writer_);
  return accounts_ ? accounts_->open_book() : nullptr;
}

std::size_t BindingTable::dump_counts(std::size_t from, std::size_t limit, std::vector<BindingCount>& out) const {
  const std::scoped_lock lock(writer_);
  if (!accounts_) return 0;
  std::size_t slot = from;
  for (std::size_t rows = 0; slot < entries_->slots() && rows < limit; ++slot) {
    const auto at = static_cast<Entries::Slot>(slot);
    if (!entries_->occupied(at)) continue;
    const std::uint64_t key = entries_->key(at);
    const PortSetParams params = addresses_.at(address_of(key)).params();
    const BindingAccounts::Sum sum = accounts_->sum(key);
    out.push_back({address_of(key), static_cast<std::uint16_t>(key), params.length, params.offset, sum[0], sum[1],
                   sum[2], sum[3]});
    ++rows;
  }
  return slot < entries_->slots() ? slot : 0;
}

std::size_t BindingTable::size() const {
  const Visit visit(*this);
  return seen().size();
}

std::size_t BindingTable::slots() const {
  const Visit visit(*this);
  return seen().slots();
}

// A visit that was begun before the new table could be seen is waited for; one that is begun later sees the new one.
// (seq_cst on both sides: the visitor counts itself before it looks, here is looked for visitors after the change.)
void BindingTable::grow(std::size_t max_bindings) {
  const std::scoped_lock lock(writer_);
  if (max_bindings < capacity()) {
    throw std::invalid_argument("a table does not shrink: this one has room for " + std::to_string(capacity()));
  }
  if (accounts_) throw std::invalid_argument("a table that counts by binding does not grow");
  auto other = make_entries(max_bindings);
  constexpr Entries::Slot kAhead = 16;
  for (Entries::Slot slot = 0; slot < entries_->slots(); ++slot) {
    if (slot + kAhead < entries_->slots()) other->prefetch(entries_->key(slot + kAhead));
    if (!entries_->occupied(slot)) continue;
    const auto to =
        other->insert(entries_->key(slot), entries_->tag(slot), entries_->value(slot), entries_->note(slot));
    if (to == Entries::kNoSlot) throw std::runtime_error("no slot could be made free in the larger table");
  }
  seen_.store(other.get(), std::memory_order_seq_cst);
  std::swap(entries_, other);
  max_bindings_.store(max_bindings, std::memory_order_relaxed);
  if (grace_) grace_();
  wait_for_visits();
}

// Both counters are seen at 0 after the change; new visits count elsewhere meanwhile, so each gets there.
void BindingTable::wait_for_visits() {
  for (unsigned i = 0; i < visits_.size(); ++i) {
    const std::atomic<unsigned>& ending = visits_[epoch_.fetch_xor(1, std::memory_order_seq_cst)];
    while (ending.load(std::memory_order_seq_cst) != 0) std::this_thread::yield();
  }
}

void BindingTable::set_grace(std::function<void()> grace) {
  const std::scoped_lock lock(writer_);
  grace_ = std::move(grace);
}

std::size_t BindingTable::reader_memory() const {
  const std::scoped_lock lock(writer_);
  return entries_->reader_octets() + addresses_.reader_octets() + br_count_ * sizeof(Ipv6);
}

std::vector<std::string> BindingTable::remarks() const {
  const Visit visit(*this);
  return home_.remarks("the binding table", seen().memory());
}

std::size_t BindingTable::memory() const {
  const std::size_t readers = reader_memory();
  const std::scoped_lock lock(writer_);
  const std::size_t accounts = accounts_ ? accounts_->memory() : 0;
  return readers + entries_->writer_octets() + addresses_.writer_octets() + accounts;
}

}  // namespace lw
