// Counters of one worker: written by it alone, read by anyone at any time.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace lw {

enum class Counter : std::uint16_t {
#define LW_COUNTER(name, kind, unit, requirement, help) name,
#include "counters.def"
#undef LW_COUNTER
  count_
};

inline constexpr std::size_t kCounterCount = static_cast<std::size_t>(Counter::count_);

enum class CounterKind : std::uint8_t { rx, edge, drop, held, tx, info };

struct CounterInfo {
  std::string_view name;
  CounterKind kind;
  std::string_view kind_name;
  std::string_view unit;
  std::string_view requirement;
  std::string_view help;
};

inline constexpr std::array<CounterInfo, kCounterCount> kCounters{{
#define LW_COUNTER(name, kind, unit, requirement, help) {#name, CounterKind::kind, #kind, #unit, requirement, help},
#include "counters.def"
#undef LW_COUNTER
}};

constexpr const CounterInfo& info(Counter which) { return kCounters[static_cast<std::size_t>(which)]; }

class alignas(64) Counters {
 public:
  // A plain load and store: there is one writer, and a lock prefix would cost 20 cycles a packet.
  void add(Counter which, std::uint64_t amount = 1) {
    auto& cell = cells_[static_cast<std::size_t>(which)];
    cell.store(cell.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }
  void sub(Counter which, std::uint64_t amount = 1) { add(which, std::uint64_t{0} - amount); }
  std::uint64_t get(Counter which) const {
    return cells_[static_cast<std::size_t>(which)].load(std::memory_order_relaxed);
  }

 private:
  std::array<std::atomic<std::uint64_t>, kCounterCount> cells_{};
};

}  // namespace lw
