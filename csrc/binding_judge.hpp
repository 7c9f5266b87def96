// One call of bind(): its rows are judged one by one and against each other, and lie ready to be carried out.
//
// A large batch is worked on in the order of the table: its candidates are sorted by the part of the table that their
// first buckets are in, a few hundred kilobytes of it at a time. Then a line of the table is fetched once for all the
// rows that touch it, instead of three far lines for every row.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "binding_table.hpp"

namespace lw {

// What an attempt noted in the table for itself is undone at its end, and so are new BRs if it was refused.
class BindingTable::Attempt {
 public:
  Attempt(BindingTable& table, std::span<const BindingRow> rows, Source source);
  ~Attempt();
  Attempt(const Attempt&) = delete;
  Attempt& operator=(const Attempt&) = delete;

  // Fills the table's candidates, and the refusals of all rows that cannot be.
  void judge(Report& report);
  // What a batch without refusals would do.
  void foretell(Report& report) const;
  bool needs_grace() const { return needs_grace_; }
  void keep_brs() { keep_brs_ = true; }

 private:
  // The address that was judged last: rows of one address mostly come one behind the other.
  struct Judged {
    Ipv4 ipv4;
    std::uint8_t psid_len, psid_offset;
    AddressClass given;  // none: there was none yet
    bool standing;
  };
  // In the place of a slot that is to be looked up: the address has bindings, so the row may replace one.
  static constexpr Entries::Slot kStanding = 0;

  void sort_out();
  void read(Report& report);
  std::optional<Reason> judge_alone(const BindingRow& row);
  std::optional<Reason> judge_address(const BindingRow& row);
  void refuse_repeated(Report& report);
  std::optional<Reason> judge_among_others(Candidate& candidate);
  void refuse_surplus(Report& report);
  std::uint32_t part_of(std::uint64_t key) const { return parts_ == 1 ? 0 : cuckoo::part_of(key, parts_); }

  BindingTable& table_;
  std::span<const BindingRow> rows_;
  Source source_;
  std::size_t br_count_;
  std::uint32_t parts_{1};
  std::vector<std::size_t> ends_;  // of the candidates of each part
  Judged judged_{};
  std::vector<Ipv4> pending_;  // addresses to which the batch wants to give a class
  std::size_t added_{};
  bool ascending_{true};  // as a snapshot has its rows: no key comes twice
  bool needs_grace_{};
  bool keep_brs_{};
};

}  // namespace lw
