// Large batches and two readers, as fast as they can: batch_stress [SECONDS]. See batch_game.hpp. The parts in whose
// order a batch is worked on are as small as the table, so that there are batches enough.
#include <chrono>
#include <thread>

#define LW_NEAR 32768

#include "batch_game.hpp"
#include "binding_batch.cpp"
#include "binding_judge.cpp"
#include "binding_table.cpp"

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 3;
  batch::Game game(6'000);
  std::atomic<bool> stop{};
  batch::Writer writer(game);
  batch::Reader bursts(game, 21), singles(game, 22);
  {
    std::vector<std::jthread> threads;
    const auto play = [&](auto turn) {
      threads.emplace_back([&stop, turn] {
        while (!stop.load(std::memory_order_relaxed)) turn();
      });
    };
    play([&] { writer.turn(); });
    play([&] { bursts.burst(batch::Reader::kBurst); });
    play([&] { singles.single(); });
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
    stop = true;
  }
  batch::report(game, bursts.look_ups() + singles.look_ups());
  return 0;
}
