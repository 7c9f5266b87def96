// The binding table alone, beside DPDK's rte_hash (lock-free readers, CRC, the same keys and values) and beside no
// table.
//
//   keys                 random keys and a constant answer: what every look-up below costs without a table
//   find, rte_find       bursts of 64 look-ups of bound keys, softwires copied out
//   insert, remove       a burst of bindings goes and as many others come: one of the two is timed
//   rte_insert, rte_remove
//   mixed, rte_mixed     64 look-ups, one removal, one insertion
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "bench_lcore.hpp"
#include "bench_ring.hpp"
#include "binding_table.hpp"

namespace lw::bench {

enum class Work : std::uint8_t { keys, find, rte_find, insert, rte_insert, remove, rte_remove, mixed, rte_mixed };

class RteTable;  // bench_rte_table.hpp

class TableBench {
 public:
  struct Build {
    std::vector<std::uint64_t> cycles;  // each time that it was built
    std::uint64_t octets;               // of memory that look-ups touch
    std::uint64_t writer_octets;
  };
  static constexpr unsigned kBurst = BindingTable::kBulk;
  static constexpr std::uint32_t kLeast = 8 * kBurst;

  // Filled to `bindings`, which is 95 % of the slots. Throws std::invalid_argument below kLeast.
  TableBench(std::uint32_t bindings, bool with_rte, unsigned lcore);
  ~TableBench();

  // [round][work]
  std::vector<std::vector<Window>> measure(const std::vector<Work>& works, unsigned rounds, double window_s);
  const Build& built() const { return built_; }
  const Build& rte_built() const { return rte_built_; }

 private:
  void fill(bool with_rte);
  void fill_rte(const std::vector<BindingRow>& rows);
  Window run(Work work, std::uint64_t cycles);
  template <class Look>
  Window look_ups(std::uint64_t cycles, Look look);
  template <class Remove, class Insert>
  Window churn(Ring& ring, std::uint64_t cycles, bool time_inserts, Remove remove, Insert insert);
  template <class Look, class Remove, class Insert>
  Window mixed(Ring& ring, std::uint64_t cycles, Look look, Remove remove, Insert insert);

  const unsigned lcore_;
  Ring own_ring_;
  Ring rte_ring_;
  std::unique_ptr<BindingTable> table_;
  std::unique_ptr<RteTable> rte_;
  Build built_{};
  Build rte_built_{};
  Random random_{2};
  volatile std::uint64_t seen_{};  // so that no look-up is thrown away
};

}  // namespace lw::bench
