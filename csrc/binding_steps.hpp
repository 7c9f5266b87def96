// Loops over many rows that wait for memory together.
#pragma once

#include <cstddef>

namespace lw {

// Takes all rows through the steps, each step kAhead rows behind the one before: what a step asks of the memory is
// there when the next one comes. 16 misses are about what a core can have under way.
template <class... Step>
[[gnu::always_inline]] inline void in_steps(std::size_t rows, Step... steps) {
  constexpr std::size_t kAhead = 16;
  for (std::size_t at = 0; at < rows + (sizeof...(Step) - 1) * kAhead; ++at) {
    std::size_t row = at;  // below 0, that is wrapped, as long as a later step has no row yet
    const auto take = [&](auto& step) {
      if (row < rows) step(row);
      row -= kAhead;
    };
    (take(steps), ...);
  }
}

}  // namespace lw
