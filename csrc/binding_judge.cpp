#include "binding_judge.hpp"

#include <algorithm>
#include <bit>

#include "binding_seen.hpp"
#include "binding_steps.hpp"

namespace lw {

namespace {

// Octets of the table that are worked on at a time: well within a core's second cache. A test may have a small table.
#if !defined(LW_NEAR)
#define LW_NEAR (1U << 19)
#endif
constexpr std::size_t kNear = LW_NEAR;
constexpr std::size_t kMostParts = 1024;  // each is written to at its own place, so each takes a line and a TLB entry

// Sources and destinations that no stage lets pass, so no binding of theirs could ever carry a packet.
constexpr bool martian(Ipv4 address) {
  constexpr Ipv4 kSoftwireRange = 0xc0000000;  // 192.0.0.0/29, RFC 7335 section 4
  const Ipv4 first_octet = address >> 24;
  return first_octet == 0 || first_octet == 127 || first_octet >= 224 || (address & ~Ipv4{7}) == kSoftwireRange;
}

bool usable(const Ipv6& address) { return !address.is_multicast() && !address.is_unspecified(); }

BindingKey key_of(const BindingRow& row) { return {row.ipv4, row.psid_len == 0 ? std::uint16_t{0} : row.psid}; }

}  // namespace

BindingTable::Attempt::Attempt(BindingTable& table, std::span<const BindingRow> rows, Source source)
    : table_(table), rows_(rows), source_(source), br_count_(table.br_count_) {
  const std::size_t octets = rows.size() * sizeof(Candidate);
  if (octets > table_.candidate_pages_.octets()) table_.candidate_pages_ = Pages(octets, Pages::Use::dense);
  table_.candidates_ = {table_.candidate_pages_.as<Candidate>(), rows.size()};
}

BindingTable::Attempt::~Attempt() {
  for (const Ipv4 address : pending_) table_.addresses_.pending(address) = 0;
  if (!keep_brs_) table_.forget_brs_from(br_count_);
  table_.candidates_ = {};
  constexpr std::size_t kKeep = 1U << 21;
  if (table_.candidate_pages_.octets() > kKeep) table_.candidate_pages_ = Pages();
}

std::optional<Reason> BindingTable::fault_of_softwire(const BindingRow& row) const {
  const auto b4 = std::bit_cast<Ipv6>(row.b4);
  const auto br = std::bit_cast<Ipv6>(row.br);
  if (!usable(b4) || !usable(br)) return Reason::bad_address;
  if (is_own(b4) || b4 == br) return Reason::own_address;
  return std::nullopt;
}

std::optional<Reason> BindingTable::fault_of(const BindingRow& row) const {
  const PortSetParams params{.offset = row.psid_offset, .length = row.psid_len};
  if (params.whole() ? params.offset > 16 : !params.valid()) return Reason::bad_params;
  if (!params.whole() && row.psid >= params.sets()) return Reason::psid_range;
  const std::optional<Reason> softwire = fault_of_softwire(row);
  if (martian(row.ipv4) || softwire == Reason::bad_address) return Reason::bad_address;
  return is_own(row.ipv4) ? Reason::own_address : softwire;
}

// The parameters of the row's address in the table and earlier in the batch.
std::optional<Reason> BindingTable::Attempt::judge_address(const BindingRow& row) {
  const AddressClass wanted = AddressClass::from({.offset = row.psid_offset, .length = row.psid_len});
  AddressClass given = table_.addresses_.at(row.ipv4);
  const bool standing = given.use() != AddressUse::none;
  if (!standing) {
    std::uint8_t& pending = table_.addresses_.pending(row.ipv4);
    if (pending == 0) {
      const AddressClass last = table_.addresses_.last(row.ipv4);
      needs_grace_ |= last.use() != AddressUse::none && last != wanted;
      pending_.push_back(row.ipv4);
      pending = wanted.code();
    }
    given = AddressClass::from_code(pending);
  }
  if (given != wanted) {
    const bool whole = given.use() == AddressUse::whole || wanted.use() == AddressUse::whole;
    return whole ? Reason::overlap : Reason::other_params_on_address;
  }
  judged_ = {row.ipv4, row.psid_len, row.psid_offset, given, standing};
  return std::nullopt;
}

// The row itself and its address, which is judged_ if there is nothing against them.
[[gnu::always_inline]] inline std::optional<Reason> BindingTable::Attempt::judge_alone(const BindingRow& row) {
  const bool known = judged_.given.use() != AddressUse::none && row.ipv4 == judged_.ipv4 &&
                     row.psid_len == judged_.psid_len && row.psid_offset == judged_.psid_offset;
  if (known) {
    const bool in_range = row.psid_len == 0 || row.psid >> row.psid_len == 0;
    return in_range ? table_.fault_of_softwire(row) : Reason::psid_range;
  }
  if (const auto why = table_.fault_of(row)) return why;
  return judge_address(row);
}

// Into how many parts, and how many rows are in each. Of fewer rows hardly two would touch the same line.
void BindingTable::Attempt::sort_out() {
  const Entries& entries = *table_.entries_;
  if (rows_.size() >= entries.slots() / 8) {
    parts_ = static_cast<std::uint32_t>(
        std::clamp<std::size_t>((entries.reader_octets() + entries.writer_octets()) / kNear, 1, kMostParts));
  }
  ends_.assign(parts_, 0);
  if (parts_ == 1) return;
  for (const BindingRow& row : rows_) ++ends_[part_of(key_of(row).packed())];
  std::size_t before = 0;
  for (std::size_t& end : ends_) before += std::exchange(end, before);  // where each begins, until it is filled
}

// Each row without the others, but for the parameters of its address.
void BindingTable::Attempt::read(Report& report) {
  std::uint64_t last = 0;
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    const BindingRow& row = rows_[i];
    const std::uint64_t key = key_of(row).packed();
    Candidate& candidate = table_.candidates_[ends_[part_of(key)]++];
    __builtin_prefetch(&candidate + 4, 1);  // of the same part, two lines on
    candidate.index = static_cast<std::uint32_t>(i) & 0x7fffffff;
    candidate.slot = Entries::kNoSlot;
    candidate.key = 0;
    if (const auto why = judge_alone(row)) {
      report.refused.push_back({i, *why});
      continue;
    }
    candidate.key = key & 0xffffffffffff;
    candidate.br = table_.intern(std::bit_cast<Ipv6>(row.br));
    candidate.b4 = std::bit_cast<Ipv6>(row.b4);
    if (judged_.standing) candidate.slot = kStanding;
    ascending_ &= key > last;
    last = key;
  }
}

void BindingTable::Attempt::refuse_repeated(Report& report) {
  if (ascending_) return;
  Seen seen(0);
  std::size_t at = 0;
  for (const std::size_t end : ends_) {
    seen.forget(end - at);
    for (; at < end; ++at) {
      Candidate& candidate = table_.candidates_[at];
      if (!candidate.good() || seen.insert(candidate.key)) continue;
      report.refused.push_back({candidate.index, Reason::duplicate_in_batch});
      candidate.key = 0;
    }
  }
}

std::optional<Reason> BindingTable::Attempt::judge_among_others(Candidate& candidate) {
  if (candidate.bound() && table_.outranks(candidate.slot, source_)) return Reason::outranked;
  if (candidate.br == 0) return Reason::too_many_br;
  candidate.same = candidate.bound() && table_.entries_->tag(candidate.slot) == candidate.br &&
                   table_.entries_->value(candidate.slot) == candidate.b4;
  added_ += !candidate.bound();
  return std::nullopt;
}

// The last of the new ones, if there is no room for all.
void BindingTable::Attempt::refuse_surplus(Report& report) {
  const std::size_t room = table_.capacity() - table_.entries_->size();
  if (added_ <= room) return;
  std::vector<std::size_t> added;
  for (const Candidate& candidate : table_.candidates_) {
    if (candidate.good() && !candidate.bound()) added.push_back(candidate.index);
  }
  std::ranges::sort(added);
  for (const std::size_t index : std::span(added).subspan(room)) report.refused.push_back({index, Reason::table_full});
}

void BindingTable::Attempt::judge(Report& report) {
  sort_out();
  read(report);
  refuse_repeated(report);
  const Entries& entries = *table_.entries_;
  const std::span<Candidate> candidates = table_.candidates_;
  in_steps(
      candidates.size(),
      [&](std::size_t i) {
        if (candidates[i].bound()) entries.prefetch(candidates[i].key);
      },
      [&](std::size_t i) {
        if (!candidates[i].bound()) return;
        candidates[i].slot = entries.locate(candidates[i].key);
        if (candidates[i].bound()) entries.prefetch_slot(candidates[i].slot);
      },
      [&](std::size_t i) {
        if (!candidates[i].good()) return;
        const auto why = judge_among_others(candidates[i]);
        if (!why) return;
        report.refused.push_back({candidates[i].index, *why});
        candidates[i].key = 0;
      });
  refuse_surplus(report);
  std::ranges::sort(report.refused, {}, &Refusal::index);
}

void BindingTable::Attempt::foretell(Report& report) const {
  for (const Candidate& candidate : table_.candidates_) {
    ++(!candidate.bound() ? report.added : candidate.same ? report.unchanged : report.replaced);
  }
}

}  // namespace lw
