// Bindings on their way in: judge every row, then do all or nothing.
#include <algorithm>
#include <bit>

#include "binding_seen.hpp"
#include "binding_table.hpp"

namespace lw {

namespace {

// Rows ahead for which memory is asked: 16 misses are about what a core can have under way.
constexpr std::size_t kAhead = 16;

constexpr Ipv4 address_of(std::uint64_t key) { return static_cast<Ipv4>(key >> 16); }

// Sources and destinations that no stage lets pass, so no binding of theirs could ever carry a packet.
constexpr bool martian(Ipv4 address) {
  constexpr Ipv4 kSoftwireRange = 0xc0000000;  // 192.0.0.0/29, RFC 7335 section 4
  const Ipv4 first_octet = address >> 24;
  return first_octet == 0 || first_octet == 127 || first_octet >= 224 || (address & ~Ipv4{7}) == kSoftwireRange;
}

bool usable(const Ipv6& address) { return !address.is_multicast() && !address.is_unspecified(); }

}  // namespace

// One call of bind(). What it noted in the table for itself is undone at its end, and so are new BRs if it was refused.
class BindingTable::Attempt {
 public:
  Attempt(BindingTable& table, std::span<const BindingRow> rows, Source source)
      : table_(table), rows_(rows), source_(source), br_count_(table.br_count_) {
    table_.candidates_.clear();
    table_.candidates_.reserve(rows.size());
  }
  ~Attempt() {
    for (const Candidate& candidate : table_.candidates_) {
      if (candidate.given.use() != AddressUse::none) table_.addresses_.pending(address_of(candidate.key)) = 0;
    }
    if (!keep_brs_) table_.forget_brs_from(br_count_);
    constexpr std::size_t kKeep = 1U << 16;
    if (table_.candidates_.capacity() > kKeep) std::vector<Candidate>().swap(table_.candidates_);
  }
  Attempt(const Attempt&) = delete;
  Attempt& operator=(const Attempt&) = delete;

  // Fills the candidates, and the refusals of all rows that cannot be.
  void judge(Report& report);
  // What a batch without refusals would do.
  void foretell(Report& report) const;
  bool needs_grace() const { return needs_grace_; }
  void keep_brs() { keep_brs_ = true; }

 private:
  std::optional<Reason> judge_alone(const BindingRow& row, Candidate& candidate);
  std::optional<Reason> judge_among_others(const BindingRow& row, Candidate& candidate, Seen& seen);
  bool ascending() const;

  BindingTable& table_;
  std::span<const BindingRow> rows_;
  Source source_;
  std::size_t br_count_;
  std::size_t added_{};
  bool needs_grace_{};
  bool keep_brs_{};
};

std::optional<Reason> BindingTable::fault_of(const BindingRow& row) const {
  const PortSetParams params{.offset = row.psid_offset, .length = row.psid_len};
  if (params.whole() ? params.offset > 16 : !params.valid()) return Reason::bad_params;
  if (!params.whole() && row.psid >= params.sets()) return Reason::psid_range;
  const auto b4 = std::bit_cast<Ipv6>(row.b4);
  const auto br = std::bit_cast<Ipv6>(row.br);
  if (martian(row.ipv4) || !usable(b4) || !usable(br)) return Reason::bad_address;
  if (is_own(row.ipv4) || is_own(b4) || b4 == br) return Reason::own_address;
  return std::nullopt;
}

// The row itself, and the parameters of its address in the table and earlier in the batch.
std::optional<Reason> BindingTable::Attempt::judge_alone(const BindingRow& row, Candidate& candidate) {
  if (const auto why = table_.fault_of(row)) return why;
  const AddressClass wanted = AddressClass::from({.offset = row.psid_offset, .length = row.psid_len});
  AddressClass standing = table_.addresses_.at(row.ipv4);
  candidate.bound = standing.use() != AddressUse::none;  // may be: to be looked up
  if (!candidate.bound) {
    std::uint8_t& pending = table_.addresses_.pending(row.ipv4);
    if (pending == 0) {
      const AddressClass last = table_.addresses_.last(row.ipv4);
      needs_grace_ |= last.use() != AddressUse::none && last != wanted;
      pending = wanted.code();
    }
    standing = AddressClass::from_code(pending);
  }
  if (standing != wanted) {
    const bool whole = standing.use() == AddressUse::whole || wanted.use() == AddressUse::whole;
    return whole ? Reason::overlap : Reason::other_params_on_address;
  }
  candidate.given = wanted;
  candidate.key = std::uint64_t{row.ipv4} << 16 | (wanted.use() == AddressUse::whole ? 0 : row.psid);
  return std::nullopt;
}

std::optional<Reason> BindingTable::Attempt::judge_among_others(const BindingRow& row, Candidate& candidate,
                                                                Seen& seen) {
  if (!seen.insert(candidate.key)) return Reason::duplicate_in_batch;
  if (candidate.bound) {
    const Entries::Slot slot = table_.entries_->locate(candidate.key);
    candidate.bound = slot != Entries::kNoSlot;
    if (candidate.bound && table_.outranks(slot, source_)) return Reason::outranked;
  }
  candidate.br = table_.intern(std::bit_cast<Ipv6>(row.br));
  if (candidate.br == 0) return Reason::too_many_br;
  if (!candidate.bound && table_.size() + ++added_ > table_.capacity()) return Reason::table_full;
  return std::nullopt;
}

// Rows in order, as a snapshot has them, need no search for duplicates.
bool BindingTable::Attempt::ascending() const {
  const auto falls = [](const Candidate& a, const Candidate& b) { return a.key >= b.key; };
  return std::ranges::adjacent_find(table_.candidates_, falls) == table_.candidates_.end();
}

void BindingTable::Attempt::judge(Report& report) {
  std::vector<Candidate>& candidates = table_.candidates_;
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    Candidate& candidate = candidates.emplace_back();
    if (const auto why = judge_alone(rows_[i], candidate)) report.refused.push_back({i, *why});
  }
  Seen seen(ascending() ? 0 : rows_.size());
  const auto prefetch = [&](const Candidate& candidate) {
    seen.prefetch(candidate.key);
    if (candidate.bound) table_.entries_->prefetch(candidate.key);
  };
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    if (i + kAhead < rows_.size()) prefetch(candidates[i + kAhead]);
    if (candidates[i].given.use() == AddressUse::none) continue;
    if (const auto why = judge_among_others(rows_[i], candidates[i], seen)) report.refused.push_back({i, *why});
  }
  std::ranges::sort(report.refused, {}, &Refusal::index);
}

void BindingTable::Attempt::foretell(Report& report) const {
  const std::vector<Candidate>& candidates = table_.candidates_;
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    if (i + kAhead < rows_.size()) table_.entries_->prefetch(candidates[i + kAhead].key);
    if (!candidates[i].bound) {
      ++report.added;
      continue;
    }
    const Entries::Slot slot = table_.entries_->locate(candidates[i].key);
    const bool same = table_.entries_->tag(slot) == candidates[i].br &&
                      table_.entries_->value(slot) == std::bit_cast<Ipv6>(rows_[i].b4);
    ++(same ? report.unchanged : report.replaced);
  }
}

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

// Returns the row for which no slot could be made free; the rows before it are then gone again.
std::optional<std::size_t> BindingTable::insert_new(std::span<const BindingRow> rows, Note note) {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (i + kAhead < rows.size()) entries_->prefetch(candidates_[i + kAhead].key);
    const Candidate& candidate = candidates_[i];
    if (candidate.bound) continue;
    const auto b4 = std::bit_cast<Ipv6>(rows[i].b4);
    const bool counted = !accounts_ || accounts_->open(candidate.key, grace_);
    if (counted && entries_->insert(candidate.key, candidate.br, b4, note) != Entries::kNoSlot) continue;
    if (counted && accounts_) accounts_->close(candidate.key);
    for (std::size_t back = 0; back < i; ++back) {
      if (!candidates_[back].bound) erase(entries_->locate(candidates_[back].key));
    }
    return i;
  }
  return std::nullopt;
}

void BindingTable::replace_bound(std::span<const BindingRow> rows, Note note, Report& report) {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (i + kAhead < rows.size()) entries_->prefetch(candidates_[i + kAhead].key);
    const Candidate& candidate = candidates_[i];
    if (!candidate.bound) continue;
    const Entries::Slot slot = entries_->locate(candidate.key);
    const auto b4 = std::bit_cast<Ipv6>(rows[i].b4);
    count(entries_->note(slot).source, -1);
    count(note.source, 1);
    entries_->note(slot) = note;
    if (entries_->tag(slot) == candidate.br && entries_->value(slot) == b4) {
      ++report.unchanged;
    } else {
      if (accounts_) {  // another subscriber: it counts from zero
        accounts_->close(candidate.key);
        accounts_->open(candidate.key, grace_);
      }
      entries_->replace(slot, candidate.br, b4);
      ++report.replaced;
    }
  }
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
  const std::size_t before = size();
  attempt.keep_brs();  // from here on readers may hold their tags, even if no room is found for a later row
  if (const auto failed = insert_new(rows, note)) {
    report.refused.push_back({*failed, Reason::table_full});
    return report;
  }
  for (const Candidate& candidate : candidates_) {  // only now may readers come
    if (!candidate.bound) addresses_.add(address_of(candidate.key), candidate.given);
  }
  report.added = size() - before;
  count(source, static_cast<std::ptrdiff_t>(report.added));
  if (report.added < rows.size()) replace_bound(rows, note, report);
  if (report.added + report.replaced > 0) changed();
  return report;
}

}  // namespace lw
