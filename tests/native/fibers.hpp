// A writer and readers as fibers of one thread, every interleaving by lot: at each step that another thread could see
// (LW_SHARED_STEP of cuckoo_bucket.hpp) a die says who goes on. So readers come in between any two steps of the writer
// and stay away for as long as it takes, which free running threads do once in millions of look-ups, and a run is the
// same each time. Included before what is to be stepped through.
#pragma once

#include <ucontext.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fibers {

constexpr unsigned kMost = 4;

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(256 * 1024);
};
inline std::array<Fiber, kMost> all;
inline unsigned count = 0;
inline ucontext_t outside;
inline unsigned running = 0;
inline bool playing = false;
inline std::uint64_t steps_left = 0;
inline std::uint64_t dice = 88172645463325252ULL;

inline std::uint64_t roll() {
  dice ^= dice << 13;
  dice ^= dice >> 7;
  dice ^= dice << 17;
  return dice;
}

inline void step() {
  if (!playing) return;
  if (--steps_left == 0) {
    playing = false;
    setcontext(&outside);
  }
  if (roll() % 4 != 0) return;
  const unsigned from = running;
  running = static_cast<unsigned>(roll() >> 20) % count;
  if (running == from) return;
  swapcontext(&all[from].context, &all[running].context);
}

inline void prepare(Fiber& fiber, void (*body)()) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.data();
  fiber.context.uc_stack.ss_size = fiber.stack.size();
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, body, 0);
  ++count;
}

// So many steps of what was prepared. The bodies never return; they stay where they are.
inline void play(std::uint64_t steps) {
  steps_left = steps;
  volatile bool begun = false;
  getcontext(&outside);
  if (begun) return;
  begun = true;
  playing = true;
  setcontext(&all[0].context);
}

}  // namespace fibers

#define LW_SHARED_STEP() fibers::step()
