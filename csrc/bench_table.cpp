#include "bench_table.hpp"

#include <rte_cycles.h>

#include <algorithm>
#include <array>
#include <bit>
#include <span>
#include <stdexcept>

#include "bench_rte_table.hpp"

namespace lw::bench {

namespace {

constexpr unsigned kBurst = TableBench::kBurst;
constexpr std::size_t kBuildRows = 10'000'000, kMostBuilds = 10;  // a small table is built several times
using Softwires = std::array<Softwire, kBurst>;

struct Change {  // a burst on its way in or out
  std::array<BindingKey, kBurst> keys;
  std::array<BindingRow, kBurst> rows;
};

void take(Change& change, const Ring& ring, std::uint32_t from, unsigned n) {
  for (unsigned i = 0; i < n; ++i) {
    const std::uint32_t number = ring.number(from + i);
    change.keys[i] = fleet::key(number);
    change.rows[i] = fleet::row(number);
  }
}

// Each returns how many operations failed.
auto own_remove(BindingTable& table) {
  return [&table](const Change& change, unsigned n) {
    return n - table.unbind(std::span(change.keys).first(n), Source::config).removed;
  };
}
auto own_insert(BindingTable& table) {
  return [&table](const Change& change, unsigned n) {
    return n - table.bind(std::span(change.rows).first(n), Source::config, 1).added;
  };
}
auto rte_remove(RteTable& table) {
  return [&table](const Change& change, unsigned n) {
    std::uint64_t failed = 0;
    for (unsigned i = 0; i < n; ++i) failed += !table.remove(change.keys[i]);
    return failed;
  };
}
auto rte_insert(RteTable& table) {
  return [&table](const Change& change, unsigned n) {
    std::uint64_t failed = 0;
    for (unsigned i = 0; i < n; ++i) {
      const BindingRow& row = change.rows[i];
      failed += !table.insert(change.keys[i], {std::bit_cast<Ipv6>(row.b4), std::bit_cast<Ipv6>(row.br)});
    }
    return failed;
  };
}

std::uint64_t constant(const BindingKey* keys, unsigned n, Softwire* out) {
  for (unsigned i = 0; i < n; ++i) out[i] = {{keys[i].ipv4, keys[i].psid}, {}};
  return ~std::uint64_t{0};
}

}  // namespace

TableBench::TableBench(std::uint32_t bindings, bool with_rte, unsigned lcore)
    : lcore_(lcore), own_ring_(bindings), rte_ring_(bindings) {
  if (bindings < kLeast) throw std::invalid_argument("bindings: at least " + std::to_string(kLeast));
  on_lcore(lcore_, [&] { fill(with_rte); });
}

TableBench::~TableBench() = default;

// From nothing each time, so the pages are touched for the first time inside the measurement, as at a start.
void TableBench::fill(bool with_rte) {
  const std::vector<BindingRow> rows = own_ring_.rows();
  const std::size_t times = std::clamp<std::size_t>(kBuildRows / rows.size(), 1, kMostBuilds);
  for (std::size_t i = 0; i < times; ++i) {
    table_.reset();
    table_ = std::make_unique<BindingTable>(rows.size());
    const std::uint64_t start = rte_rdtsc();
    if (!table_->bind(rows, Source::config, 1).ok()) throw std::runtime_error("the table did not take all bindings");
    built_.cycles.push_back(rte_rdtsc() - start);
  }
  built_.octets = table_->reader_memory();
  built_.writer_octets = table_->memory() - built_.octets;
  if (with_rte) fill_rte(rows);
}

void TableBench::fill_rte(const std::vector<BindingRow>& rows) {
  rte_ = std::make_unique<RteTable>(rows.size());
  const std::uint64_t start = rte_rdtsc();
  for (const BindingRow& row : rows) {
    const Softwire to{std::bit_cast<Ipv6>(row.b4), std::bit_cast<Ipv6>(row.br)};
    if (!rte_->insert({row.ipv4, row.psid}, to)) throw std::runtime_error("rte_hash did not take all bindings");
  }
  rte_built_ = {{rte_rdtsc() - start}, rte_->octets(), 0};
}

template <class Look>
Window TableBench::look_ups(std::uint64_t cycles, Look look) {
  Window window;
  std::array<BindingKey, kBurst> keys;
  Softwires softwires{};
  std::uint64_t seen = 0;
  const std::uint64_t start = rte_rdtsc();
  std::uint64_t now = start;
  for (; now - start < cycles; now = rte_rdtsc()) {
    for (BindingKey& key : keys) key = fleet::key(random_.below(own_ring_.stable()));
    const std::uint64_t found = look(keys.data(), kBurst, softwires.data());
    for (const Softwire& softwire : softwires) seen ^= softwire.b4.low;
    window.operations += kBurst;
    window.faults += static_cast<unsigned>(std::popcount(~found));
  }
  window.cycles = now - start;
  seen_ = seen_ ^ seen;
  return window;
}

template <class Remove, class Insert>
Window TableBench::churn(Ring& ring, std::uint64_t cycles, bool time_inserts, Remove remove, Insert insert) {
  Window window;
  Change going, coming;
  const std::uint64_t start = rte_rdtsc();
  while (rte_rdtsc() - start < cycles) {
    take(going, ring, 0, kBurst);
    take(coming, ring, ring.churn(), kBurst);
    const std::uint64_t first = rte_rdtsc();
    window.faults += remove(going, kBurst);
    const std::uint64_t second = rte_rdtsc();
    window.faults += insert(coming, kBurst);
    window.cycles += time_inserts ? rte_rdtsc() - second : second - first;
    window.operations += kBurst;
    ring.turn(kBurst);
  }
  return window;
}

template <class Look, class Remove, class Insert>
Window TableBench::mixed(Ring& ring, std::uint64_t cycles, Look look, Remove remove, Insert insert) {
  Window window;
  Change going, coming;
  std::array<BindingKey, kBurst> keys;
  Softwires softwires{};
  const std::uint64_t start = rte_rdtsc();
  while (rte_rdtsc() - start < cycles) {
    for (BindingKey& key : keys) key = fleet::key(random_.below(own_ring_.stable()));
    take(going, ring, 0, 1);
    take(coming, ring, ring.churn(), 1);
    const std::uint64_t before = rte_rdtsc();
    const std::uint64_t found = look(keys.data(), kBurst, softwires.data());
    window.faults += remove(going, 1) + insert(coming, 1);
    window.cycles += rte_rdtsc() - before;
    window.faults += static_cast<unsigned>(std::popcount(~found));
    window.operations += kBurst + 2;
    seen_ = seen_ ^ softwires[0].b4.low;
    ring.turn(1);
  }
  return window;
}

Window TableBench::run(Work work, std::uint64_t cycles) {
  const auto own = [this](const BindingKey* keys, unsigned n, Softwire* out) {
    return table_->find_bulk(keys, n, out);
  };
  const auto rte = [this](const BindingKey* keys, unsigned n, Softwire* out) { return rte_->find_bulk(keys, n, out); };
  const bool inserts = work == Work::insert || work == Work::rte_insert;
  switch (work) {
    case Work::keys:
      return look_ups(cycles, constant);
    case Work::find:
      return look_ups(cycles, own);
    case Work::rte_find:
      return look_ups(cycles, rte);
    case Work::insert:
    case Work::remove:
      return churn(own_ring_, cycles, inserts, own_remove(*table_), own_insert(*table_));
    case Work::rte_insert:
    case Work::rte_remove:
      return churn(rte_ring_, cycles, inserts, rte_remove(*rte_), rte_insert(*rte_));
    case Work::mixed:
      return mixed(own_ring_, cycles, own, own_remove(*table_), own_insert(*table_));
    case Work::rte_mixed:
      return mixed(rte_ring_, cycles, rte, rte_remove(*rte_), rte_insert(*rte_));
  }
  return {};
}

std::vector<std::vector<Window>> TableBench::measure(const std::vector<Work>& works, unsigned rounds, double window_s) {
  for (const Work work : works) {
    const bool rte =
        work == Work::rte_find || work == Work::rte_insert || work == Work::rte_remove || work == Work::rte_mixed;
    if (rte && !rte_) throw std::invalid_argument("this table was built without rte_hash");
  }
  std::vector<std::vector<Window>> all;
  on_lcore(lcore_, [&] {
    constexpr double kWarm = 0.1;  // of a window, before it
    for (unsigned round = 0; round < rounds; ++round) {
      auto& windows = all.emplace_back();
      for (const Work work : works) {
        const Window warm = run(work, cycles_of(window_s * kWarm));
        Window window = run(work, cycles_of(window_s));
        window.faults += warm.faults;
        windows.push_back(window);
      }
    }
  });
  return all;
}

}  // namespace lw::bench
