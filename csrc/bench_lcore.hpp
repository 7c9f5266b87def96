// Runs measured work on a worker lcore while the caller sleeps: rte_eal_wait_lcore() alone would spin on the other
// hyper-thread of the measured core.
#pragma once

#include <cstdint>
#include <functional>

namespace lw::bench {

// Throws what `work` throws, and EalError when the lcore cannot run it.
void on_lcore(unsigned lcore, const std::function<void()>& work);

// What one window of a measurement saw.
struct Window {
  std::uint64_t operations{};
  std::uint64_t cycles{};
  std::uint64_t faults{};  // operations that did not do what they must
};

std::uint64_t tsc_hz();
std::uint64_t cycles_of(double seconds);

}  // namespace lw::bench
