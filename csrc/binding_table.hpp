// The binding table (RFC 7596 section 6.1): (IPv4 address, PSID) -> softwire, whole and shared addresses in one table.
//
// A look-up takes two steps: classify() says how the address is used and so gives the PSID of a port, find() takes
// (address, PSID). Each step alone is one consistent answer (cuckoo.hpp). Between them the writer may go on:
//   appearing     Bindings are inserted before the class of their address is published: who sees an address shared
//                 finds all bindings of the batch that brought the address up.
//   disappearing  The class is taken back before the last binding is. A reader that had classified before finds
//                 nothing: for a packet that is "no binding", as if it had come a moment later.
//   other (a, k)  An address gets other parameters only when its last binding has gone. A reader that holds the old
//                 ones would look up a PSID of the old division in the new one, somebody else's: so the writer calls
//                 the grace function before the first binding of the new division goes in. It returns when every
//                 reader has finished what it was doing at the call.
//   growing       The larger table is complete before readers come to it, and goes on where the old one stood still.
//                 The old one is freed when every reader has finished what it was doing: one query stays in one of
//                 them.
//   replacing     Old or new softwire, never B4 of one with BR of the other.
// A batch as a whole is not one instant for readers; every packet sees its binding as it was before or after.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "address_class.hpp"
#include "address_map.hpp"
#include "binding.hpp"
#include "binding_accounts.hpp"
#include "cuckoo.hpp"
#include "numa.hpp"
#include "types.hpp"

namespace lw {

struct Softwire {
  Ipv6 b4;
  Ipv6 br;
  constexpr bool operator==(const Softwire&) const = default;
};

struct BindingKey {
  std::uint32_t ipv4;
  std::uint16_t psid;
  constexpr std::uint64_t packed() const { return std::uint64_t{ipv4} << 16 | psid; }
};

// What went through one binding. Exported to Python as a numpy dtype.
struct BindingCount {
  std::uint32_t ipv4;  // as in BindingRow, and so are the next three
  std::uint16_t psid;
  std::uint8_t psid_len;
  std::uint8_t psid_offset;
  std::uint64_t packets_in;  // towards the B4
  std::uint64_t octets_in;   // of the IPv4 packets
  std::uint64_t packets_out;
  std::uint64_t octets_out;
};
static_assert(sizeof(BindingCount) == 40);

enum class Reason : std::uint8_t {
  bad_params,               // a + k > 16 (DP-031)
  psid_range,               // PSID >= 2^k (DP-031)
  bad_address,              // never forwarded: martian IPv4, unspecified or multicast IPv6
  own_address,              // of the router itself (DP-061, DP-063)
  overlap,                  // a whole address beside other bindings of it (DP-024)
  other_params_on_address,  // (DP-025)
  duplicate_in_batch,       // (DP-024)
  outranked,                // stands there by a source of higher precedence
  too_many_br,              // more than 65,535 different BR addresses in the life of the table
  table_full,
  not_bound,  // nothing to unbind
};
std::string_view name_of(Reason reason);

struct Refusal {
  std::size_t index;
  Reason reason;
};

struct Report {
  std::size_t added{};
  std::size_t replaced{};
  std::size_t unchanged{};
  std::size_t removed{};
  std::vector<Refusal> refused;  // by index; if there is one, nothing was done
  bool ok() const { return refused.empty(); }
};

class BindingTable {
 public:
  struct Own {
    std::vector<Ipv4> v4;
    std::vector<Ipv6> v6;
  };
  // `accounts`: what goes through each binding is counted. `nodes`: of the workers.
  explicit BindingTable(std::size_t max_bindings, Own own = {}, bool accounts = false, numa::Nodes nodes = {});
  BindingTable(const BindingTable&) = delete;
  BindingTable& operator=(const BindingTable&) = delete;

  // --- readers: any thread, never waiting ---

  [[gnu::always_inline]] AddressClass classify(Ipv4 address) const noexcept { return addresses_.at(address); }
  // False: an address that has no class for certain, told sooner.
  [[gnu::always_inline]] bool near(Ipv4 address) const noexcept { return addresses_.near(address); }
  bool find(BindingKey key, Softwire& out) const noexcept;
  static constexpr unsigned kBulk = 64;
  // n <= kBulk. Bit i of the answer: keys[i] is bound, and out[i] was filled.
  std::uint64_t find_bulk(const BindingKey* keys, unsigned n, Softwire* out) const noexcept;
  const BindingAccounts* accounts() const noexcept { return accounts_.get(); }  // null: nothing is counted

  // The same in steps, for who has something to do between them: begin(), ask() for key number i < kBulk, locate() all
  // n, take() each. A query is begun and ended within one turn of a worker.
  class Query;
  struct Found {
    Ipv6 b4;
    const Ipv6* br;
  };
  void begin(Query& query) const noexcept;
  void ask(Query& query, unsigned i, BindingKey key) const noexcept;
  void locate(Query& query, unsigned n) const noexcept;
  bool take(const Query& query, unsigned i, Found& found) const noexcept;

  // Who reads and is no worker: grow() waits for the ends of workers' turns and of visits.
  class Visit;
  // For benchmarks: look-ups are answered by a formula, so that all but the table's memory is measured.
  using Formula = Found (*)(BindingKey key);
  void answer_by(Formula formula) { formula_ = formula; }
  struct Homes {
    std::size_t bound{};
    std::size_t first{};  // of these, in the first of their two buckets
  };
  Homes homes(std::span<const BindingKey> keys) const;

  // --- the writer's side: one call at a time (a mutex sees to it), never on a worker ---

  // All or nothing. A row whose key is bound replaces the binding, if that is of the same source or a lower one.
  Report bind(std::span<const BindingRow> rows, Source source, std::uint32_t generation);
  // What bind() would report, nothing done. Only a slot that cannot be made free (cuckoo.hpp) shows up in bind() alone.
  Report judge(std::span<const BindingRow> rows, Source source);
  // All or nothing. The PSID of a whole address is ignored.
  Report unbind(std::span<const BindingKey> keys, Source source);
  // Removes the bindings of the source that were not bound again under this generation; returns them.
  std::vector<BindingRow> sweep(Source source, std::uint32_t generation);

  // Other own addresses from now on. False, and nothing is done, if a binding names one of them for its subscriber.
  bool set_own(Own own);
  // How many bindings name a BR address that is not among these.
  std::size_t count_other_brs(std::span<const Ipv6> served) const;

  // Who has these keys, all at one moment: rows[i] and the source sources[i]; zeros and kNoSource where nobody has. The
  // PSID of a whole address is ignored. Both have room for as many as there are keys.
  void holders(std::span<const BindingKey> keys, BindingRow* rows, std::uint8_t* sources) const;

  // Appends at most `limit` rows to `out` and their sources, and returns where to go on, 0 = that was all. The chunks
  // together are the table of one moment only if changes() is the same before and after: an entry that moves may show
  // up in two or none.
  std::size_t dump(std::size_t from, std::size_t limit, std::vector<BindingRow>& out,
                   std::vector<std::uint8_t>& sources) const;
  std::vector<BindingRow> dump() const;  // of one moment; binding waits for it, readers do not

  // The accounts of one more worker, null if nothing is counted. Only this changes a table that is not to be changed.
  Account* open_book() const;
  // Like the chunked dump, of what went through the bindings. Nothing without accounts.
  std::size_t dump_counts(std::size_t from, std::size_t limit, std::vector<BindingCount>& out) const;
  // Room for more bindings: they are copied into a larger table, which then takes the place of this one. Readers go on
  // all the time; binding waits. Throws std::invalid_argument if that is less than capacity() or there are
  // accounts, std::bad_alloc without memory for both; nothing has changed then.
  void grow(std::size_t max_bindings);

  // See "other (a, k)" above. Never called on a worker. Without one the writer does not wait.
  void set_grace(std::function<void()> grace);

  std::size_t size() const;
  std::size_t size(Source source) const { return sizes_[std::size_t(source)].load(std::memory_order_relaxed); }
  std::size_t capacity() const { return max_bindings_.load(std::memory_order_relaxed); }
  std::size_t slots() const;
  std::uint64_t changes() const { return changes_.load(std::memory_order_acquire); }  // batches that did something
  std::size_t reader_memory() const;                                                  // octets that look-ups touch
  std::size_t memory() const;                                                         // and the writer's own
  // What an operator should know about where its memory lies.
  std::vector<std::string> remarks() const;

 private:
  struct [[gnu::packed]] Note {
    std::uint32_t generation;
    Source source;
  };
  using Entries = Cuckoo<Ipv6, Note>;

  struct Ipv6Hash {
    std::size_t operator()(const Ipv6& address) const { return hash::mix(address.high, address.low); }
  };
  struct Candidate {         // one row of the batch at hand
    std::uint64_t key : 48;  // 0: refused
    std::uint64_t br : 16;   // its tag
    Ipv6 b4;
    Entries::Slot slot;        // of what it replaces; kNoSlot: nothing. Holds until an insert moves something.
    std::uint32_t index : 31;  // of the row
    std::uint32_t same : 1;    // as what stands there
    bool good() const { return key != 0; }
    bool bound() const { return slot != Entries::kNoSlot; }
  };
  static_assert(sizeof(Candidate) == 32);
  class Attempt;  // binding_judge.hpp
  class Seen;     // the keys of a batch, to find duplicates

  // BR addresses lie at the tags of their entries. There are only ever more: a reader may hold any tag that was in use.
  static constexpr std::size_t kMaxBr = 0x10000;

  std::optional<Reason> fault_of(const BindingRow& row) const;
  std::optional<Reason> fault_of_softwire(const BindingRow& row) const;
  bool is_own(Ipv4 address) const;
  bool is_own(const Ipv6& address) const;
  bool outranks(Entries::Slot slot, Source source) const;
  std::uint16_t intern(const Ipv6& br);
  std::unique_ptr<Entries> make_entries(std::size_t max_bindings);
  void forget_brs_from(std::size_t count);
  std::optional<std::size_t> insert_new(Note note);
  std::optional<std::size_t> open_accounts();
  void insert_first(Note note, std::vector<std::uint32_t>& others);
  void take_back_new();
  void replace_bound(Note note, bool moved, Report& report);
  std::optional<Reason> judge_unbind(BindingKey key, Source source, Seen& seen);
  void remove(Entries::Slot slot);
  void erase(Entries::Slot slot);
  void count(Source source, std::ptrdiff_t more) {
    sizes_[std::size_t(source)].fetch_add(static_cast<std::size_t>(more), std::memory_order_relaxed);
  }
  void changed() { changes_.store(changes_.load(std::memory_order_relaxed) + 1, std::memory_order_release); }
  BindingRow row_at(Entries::Slot slot) const;

  const Entries& seen() const { return *seen_.load(std::memory_order_seq_cst); }  // see grow()

  void wait_for_visits();
  bool take_anew(const Query& query, unsigned i, Found& found) const noexcept;

  std::atomic<std::size_t> max_bindings_;
  numa::Home home_;                                        // of all that look-ups touch
  Own own_;                                                // both sorted
  std::unique_ptr<Entries> entries_;                       // the writer's
  std::atomic<const Entries*> seen_;                       // the same, for readers
  mutable std::array<std::atomic<unsigned>, 2> visits_{};  // under way, by the epoch in which they began
  std::atomic<unsigned> epoch_{};
  Formula formula_{};
  std::unique_ptr<BindingAccounts> accounts_;
  AddressMap addresses_;
  Pages br_pages_;
  Ipv6* br_;
  std::size_t br_count_{1};  // tag 0 is an empty slot
  std::uint16_t last_br_{};  // most rows of a batch name the same one
  std::unordered_map<Ipv6, std::uint16_t, Ipv6Hash> br_tags_;
  std::vector<Entries::Slot> doomed_;  // these two: of the batch at hand, kept for their memory
  Pages candidate_pages_;
  std::span<Candidate> candidates_;
  std::function<void()> grace_;
  std::array<std::atomic<std::size_t>, kSources> sizes_{};
  std::atomic<std::uint64_t> changes_{};
  mutable std::mutex writer_;
};

class BindingTable::Query {
 public:
  const std::uint64_t* keys() const { return asked_.keys.data(); }  // packed, by number

 private:
  friend BindingTable;
  const Entries* in_{};
  Entries::Query asked_;
};

class BindingTable::Visit {
 public:
  explicit Visit(const BindingTable& table) : visits_(table.visits_[table.epoch_.load(std::memory_order_relaxed)]) {
    visits_.fetch_add(1, std::memory_order_seq_cst);
  }
  ~Visit() { visits_.fetch_sub(1, std::memory_order_release); }
  Visit(const Visit&) = delete;
  Visit& operator=(const Visit&) = delete;

 private:
  std::atomic<unsigned>& visits_;
};

// Inline: a worker takes these steps for every packet.
inline void BindingTable::begin(Query& query) const noexcept { query.in_ = &seen(); }
[[gnu::always_inline]] inline void BindingTable::ask(Query& query, unsigned i, BindingKey key) const noexcept {
  query.in_->ask(query.asked_, i, std::uint64_t{key.ipv4} << 16 | key.psid);
}
inline void BindingTable::locate(Query& query, unsigned n) const noexcept {
  if (formula_ == nullptr) [[likely]] {
    query.in_->locate(query.asked_, n);
  } else {
    Entries::locate_none(query.asked_);
  }
}
[[gnu::always_inline]] inline bool BindingTable::take(const Query& query, unsigned i, Found& found) const noexcept {
  Entries::Found entry;
  if (query.in_->take_seen(query.asked_, i, entry)) [[likely]] {
    found = {entry.value, &br_[entry.tag]};
    return true;
  }
  Found anew;  // its address is given away: `found` can stay in registers
  if (!take_anew(query, i, anew)) return false;
  found = anew;
  return true;
}

}  // namespace lw
