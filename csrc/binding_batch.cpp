// Bindings on their way in: all or nothing. binding_judge.hpp has what is looked at before.
#include <bit>

#include "binding_judge.hpp"
#include "binding_steps.hpp"
#include "binding_table.hpp"

namespace lw {

// 0 when there is no room for one more.
std::uint16_t BindingTable::intern(const Ipv6& br) {
  if (br_count_ > 1 && br_[last_br_] == br) return last_br_;
  if (const auto known = br_tags_.find(br); known != br_tags_.end()) return last_br_ = known->second;
  if (br_count_ == kMaxBr) return 0;
  last_br_ = static_cast<std::uint16_t>(br_count_);
  br_tags_.emplace(br, last_br_);
  br_[br_count_++] = br;
  return last_br_;
}

void BindingTable::forget_brs_from(std::size_t count) {
  while (br_count_ > count) br_tags_.erase(br_[--br_count_]);
  last_br_ = 0;
}

// Before the bindings, so that nothing goes through one without its account. Returns the row for which there is no
// room.
std::optional<std::size_t> BindingTable::open_accounts() {
  if (!accounts_) return std::nullopt;
  for (const Candidate& one : candidates_) {
    if (!one.bound() && !accounts_->open(one.key, grace_)) return std::size_t{one.index};
  }
  return std::nullopt;
}

// All that have room in their first bucket. `others` has room for the rest of them.
void BindingTable::insert_first(Note note, std::vector<std::uint32_t>& others) {
  in_steps(
      candidates_.size(),
      [&](std::size_t i) {
        if (!candidates_[i].bound()) entries_->prefetch_first(candidates_[i].key);
      },
      [&](std::size_t i) {
        const Candidate& one = candidates_[i];
        if (one.bound() || entries_->insert_first(one.key, static_cast<std::uint16_t>(one.br), one.b4, note)) return;
        others.push_back(static_cast<std::uint32_t>(i));
      });
}

// Returns the row for which no slot could be made free; nothing was inserted then.
std::optional<std::size_t> BindingTable::insert_new(Note note) {
  std::vector<std::uint32_t> others;
  others.reserve(candidates_.size());  // no memory is asked for once the table is half changed
  std::optional<std::size_t> failed = open_accounts();
  if (!failed) insert_first(note, others);
  const auto insert = [&](const Candidate& one) {
    if (failed) return;
    const auto tag = static_cast<std::uint16_t>(one.br);
    if (entries_->insert(one.key, tag, one.b4, note) == Entries::kNoSlot) failed = one.index;
  };
  in_steps(
      others.size(),  //
      [&](std::size_t i) { entries_->prefetch_second(candidates_[others[i]].key); },
      [&](std::size_t i) { entries_->prefetch_room(candidates_[others[i]].key); },
      [&](std::size_t i) { insert(candidates_[others[i]]); });
  if (failed) take_back_new();
  return failed;
}

void BindingTable::take_back_new() {
  for (const Candidate& one : candidates_) {
    if (one.bound()) continue;
    const Entries::Slot slot = entries_->locate(one.key);
    if (slot != Entries::kNoSlot) entries_->erase(slot);
    if (accounts_) accounts_->close(one.key);
  }
}

// `moved`: slots may hold other keys than when they were noted.
void BindingTable::replace_bound(Note note, bool moved, Report& report) {
  std::array<std::ptrdiff_t, kSources> more{};
  const auto replace = [&](const Candidate& candidate) {
    const bool there = !moved || entries_->key(candidate.slot) == candidate.key;
    const Entries::Slot slot = there ? candidate.slot : entries_->locate(candidate.key);
    --more[std::size_t(entries_->note(slot).source)];
    ++more[std::size_t(note.source)];
    entries_->note(slot) = note;
    if (candidate.same) {
      ++report.unchanged;
      return;
    }
    if (accounts_) {  // another subscriber: it counts from zero
      accounts_->close(candidate.key);
      accounts_->open(candidate.key, grace_);
    }
    entries_->replace(slot, static_cast<std::uint16_t>(candidate.br), candidate.b4);
    ++report.replaced;
  };
  in_steps(
      candidates_.size(),
      [&](std::size_t i) {
        const Candidate& candidate = candidates_[i];
        if (!candidate.bound()) return;
        entries_->prefetch_note(candidate.slot);
        if (moved || !candidate.same) entries_->prefetch_slot(candidate.slot);
      },
      [&](std::size_t i) {
        if (candidates_[i].bound()) replace(candidates_[i]);
      });
  for (std::size_t source = 0; source < kSources; ++source) count(static_cast<Source>(source), more[source]);
}

Report BindingTable::judge(std::span<const BindingRow> rows, Source source) {
  const std::scoped_lock lock(writer_);
  Report report;
  Attempt attempt(*this, rows, source);
  attempt.judge(report);
  if (report.ok()) attempt.foretell(report);
  return report;
}

Report BindingTable::bind(std::span<const BindingRow> rows, Source source, std::uint32_t generation) {
  const std::scoped_lock lock(writer_);
  Report report;
  Attempt attempt(*this, rows, source);
  attempt.judge(report);
  if (!report.ok()) return report;

  if (attempt.needs_grace() && grace_) grace_();
  const Note note{.generation = generation, .source = source};
  const std::size_t before = entries_->size();
  const std::uint64_t moves = entries_->moves();
  attempt.keep_brs();  // from here on readers may hold their tags, even if no room is found for a later row
  if (const auto failed = insert_new(note)) {
    report.refused.push_back({*failed, Reason::table_full});
    if (entries_->moves() != moves) changed();
    return report;
  }
  for (const Candidate& candidate : candidates_) {  // only now may readers come
    if (!candidate.bound()) addresses_.add(static_cast<Ipv4>(candidate.key >> 16));
  }
  report.added = entries_->size() - before;
  count(source, static_cast<std::ptrdiff_t>(report.added));
  if (report.added < rows.size()) replace_bound(note, entries_->moves() != moves, report);
  if (report.added + report.replaced > 0) changed();
  return report;
}

}  // namespace lw
