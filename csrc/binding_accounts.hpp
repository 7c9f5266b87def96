// Packets and octets of each binding, where the operator asks for them.
//
// An entry of the binding table moves from slot to slot while others are inserted, and each worker counts for itself.
// So a binding gets a number for its life: a second index leads from its key to the number, and each worker has an
// array of accounts by number. Nobody who does not count pays for it: the binding table is as it was without.
//
// A number that becomes free is used again only when all fresh ones are gone. Then the writer waits for a turn of all
// workers, so that nobody still counts by the old meaning, and sets the accounts to zero before the number is published
// again: no binding inherits what another one has used.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

#include "cuckoo.hpp"
#include "pages.hpp"

namespace lw {

// Written by one worker, read by anyone at any time.
struct alignas(32) Account {
  enum Way : std::uint8_t { in = 0, out = 2 };  // towards the B4, from it

  // A plain load and store, as for the counters: there is one writer.
  void add(Way way, std::uint64_t octets) {
    bump(fields[way], 1);
    bump(fields[way + 1U], octets);
  }
  std::array<std::atomic<std::uint64_t>, 4> fields;  // packets in, octets in, packets out, octets out

 private:
  static void bump(std::atomic<std::uint64_t>& cell, std::uint64_t amount) {
    cell.store(cell.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }
};
static_assert(sizeof(Account) == 32 && std::atomic<std::uint64_t>::is_always_lock_free);

class BindingAccounts {
 public:
  using Number = std::uint32_t;  // 0: of no binding; its account is nobody's
  using Sum = std::array<std::uint64_t, 4>;

  explicit BindingAccounts(std::size_t max_bindings);

  // --- a worker's, never waiting ---

  // out[i] is 0 for a key without an account. n <= BindingTable::kBulk.
  void find_bulk(const std::uint64_t* keys, unsigned n, Number* out) const noexcept {
    for (unsigned i = 0; i < n; ++i) out[i] = 0;
    index_.find_bulk(keys, n,
                     [out](unsigned i, const Index::Found& found) { out[i] = static_cast<Number>(found.value); });
  }
  Number find(std::uint64_t key) const noexcept {
    Index::Found found;
    return index_.find(key, found) ? static_cast<Number>(found.value) : 0;
  }
  // A number that was looked up in an earlier turn still means the same binding while this has not changed.
  std::uint64_t reuses() const noexcept { return reuses_.load(std::memory_order_acquire); }

  // --- the writer's: under the table's lock ---

  // The accounts of one more worker; they stay when it goes, so that sums never fall.
  Account* open_book();
  // False: no room. `grace` as in BindingTable; may be empty.
  bool open(std::uint64_t key, const std::function<void()>& grace);
  void close(std::uint64_t key);
  Sum sum(std::uint64_t key) const;
  std::size_t memory() const;
  auto index_memory() const { return index_.memory(); }  // not touched before the first open()

 private:
  struct Nothing {};
  using Index = Cuckoo<std::uint64_t, Nothing>;

  void recycle(const std::function<void()>& grace);

  std::size_t numbers_;
  Index index_;
  std::vector<Pages> books_;
  Number fresh_{1};
  std::deque<Number> clean_;
  std::vector<Number> resting_;  // not to be used again before a grace period
  std::atomic<std::uint64_t> reuses_{};
};

}  // namespace lw
