// The steps of large batches and two readers, every interleaving by lot: batch_interleave [STEPS]. See batch_game.hpp
// and fibers.hpp. The table is small, and so are the parts in whose order a batch is worked on.
#include "fibers.hpp"

#define LW_NEAR 2048

#include "batch_game.hpp"
#include "binding_accounts.cpp"
#include "binding_batch.cpp"
#include "binding_judge.cpp"
#include "binding_table.cpp"

namespace {

batch::Game game(600);
batch::Writer writer(game);
batch::Reader bursts(game, 21), singles(game, 22);

void writes() {
  for (;;) writer.turn();
}
void reads_bursts() {
  for (;;) bursts.burst(4);
}
void reads_singles() {
  for (;;) singles.single();
}

}  // namespace

int main(int argc, char** argv) {
  lw::cuckoo::use(lw::cuckoo::Scan::portable);  // a search of seven steps
  fibers::prepare(fibers::all[0], writes);
  fibers::prepare(fibers::all[1], reads_bursts);
  fibers::prepare(fibers::all[2], reads_singles);
  fibers::play(argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 6'000'000);
  batch::report(game, bursts.look_ups() + singles.look_ups());
  return 0;
}
