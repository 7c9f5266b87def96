// One core looks up while another changes the table: rates, and whether every look-up was right.
//
// The reader knows what it may find. A stable binding must be there, with the softwire of its one or its other variant
// and never with B4 of one and BR of the other; a binding that comes and goes may be missing, but not be another's.
//
// Three phases take turns, window by window:
//   idle     nobody writes
//   busy     the other core does the same updates on a small table of its own: equally busy, but not writing here
//   writing  it does them on the table that is read, which stands at 95 % of its slots
// Two more are one job each, read until it is done:
//   replacing  all bindings come again with other addresses and a new generation, and the old generation is swept
//   growing    the table gets a twentieth larger (so afterwards it is not as full)
#pragma once

#include <cstdint>
#include <vector>

namespace lw::bench {

struct UpdatesPlan {
  std::uint32_t bindings;
  unsigned batch;  // rows a call
  double rate;     // insertions and removals a second; 0 = as many as can be
  unsigned rounds;
  double window_s;
  unsigned lcore;       // of the reader
  unsigned writer_cpu;  // of the writer, a thread beside DPDK's
  unsigned jobs;        // how often all are replaced and the table grows, behind the rounds
};

struct UpdatesWindow {
  std::uint64_t look_ups;
  std::uint64_t cycles;
  std::uint64_t missed;
  std::uint64_t wrong;
  std::uint64_t updates;   // insertions and removals in this window
  std::uint64_t replaced;  // bindings that got other addresses
  std::uint64_t refused;   // changes that the table did not take
  std::uint64_t job;       // cycles of the whole job in the phases that are one
};

enum class Phase : std::uint32_t { idle, busy, writing, replacing, growing, end };

struct UpdatesResult {
  std::vector<std::vector<UpdatesWindow>> rounds;  // [round][idle, busy, writing]
  std::vector<std::vector<UpdatesWindow>> jobs;    // [job][replacing, growing]
};
UpdatesResult updates(const UpdatesPlan& plan);

}  // namespace lw::bench
