// What scripts/instructions.py counts: count_lane encap|decap|hairpin BURSTS sends full bursts of plain packets of 1000
// bindings through one lane, default settings. Exits non-zero if one of them leaves by no edge. Only what happens in
// Lane::receive is counted, so writing the packets is not.
#include <rte_mbuf.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "bench_fleet.hpp"
#include "bench_traffic.hpp"
#include "binding_table.hpp"
#include "eal.hpp"
#include "lane.hpp"
#include "packet.hpp"
#include "shared.hpp"

namespace {

using lw::Counter;
using lw::SideId;
using lw::bench::Direction;

constexpr std::uint32_t kBindings = 1000;
constexpr lw::Mac kMac4{{2, 0, 0, 0, 0, 4}}, kMac6{{2, 0, 0, 0, 0, 6}}, kPeer{{2, 0, 0, 0, 0, 0x99}};

// Frees outside of what is counted would need a second burst of buffers: it keeps them until the burst is over.
class Kept final : public lw::FrameSink {
 public:
  std::uint16_t send(SideId, rte_mbuf** frames, std::uint16_t n) noexcept override {
    frames_.insert(frames_.end(), frames, frames + n);
    return n;
  }
  void clear() {
    for (rte_mbuf* frame : frames_) rte_pktmbuf_free(frame);
    frames_.clear();
  }
  Kept() { frames_.reserve(256); }

 private:
  std::vector<rte_mbuf*> frames_;
};

lw::Settings settings() {
  lw::Settings s;
  s.v4.mac = kMac4;
  s.v6.mac = kMac6;
  s.v4.next_hop_mac = s.v6.next_hop_mac = kPeer;
  s.v6.mtu = 1560;
  s.v4_addresses = {{0xc0000201, 24}};
  s.v6_addresses = {{{lw::Be<std::uint64_t>{0x20010db8fffe0000}.raw(), lw::Be<std::uint64_t>{2}.raw()}, 64}};
  s.br_addresses = {lw::bench::fleet::br()};
  return s;
}

// The name that is counted under: link-time optimisation would take Lane::receive into its caller.
[[gnu::noinline]] void lane_receives(lw::Lane& lane, lw::PortRole role, rte_mbuf** frames, unsigned n,
                                     std::uint64_t now_ns) {
  lane.receive(role, frames, n, now_ns);
}

int run(Direction direction, unsigned bursts) {
  std::vector<lw::BindingRow> rows;
  for (std::uint32_t i = 0; i < kBindings; ++i) rows.push_back(lw::bench::fleet::row(i));
  lw::BindingTable table(kBindings);
  if (!table.bind(rows, lw::Source::config, 1).ok()) return 1;
  rte_mempool* pool =
      rte_pktmbuf_pool_create("count", 1023, 64, lw::packet::kPrivate, 2048 + RTE_PKTMBUF_HEADROOM, SOCKET_ID_ANY);
  if (pool == nullptr) return 1;
  const lw::Settings chosen = settings();
  lw::Shared shared(chosen, 0x5eed);
  lw::Counters counters;
  Kept sink;
  lw::Lane lane({0, chosen, table, shared, pool, sink, counters, 64});
  const bool v4 = direction == Direction::encap;
  lw::bench::Traffic traffic({direction, kBindings, {lw::bench::Traffic::least(direction)}, false, v4 ? kMac4 : kMac6});
  std::array<rte_mbuf*, lw::Lane::kBurst> frames;
  for (unsigned i = 0; i < bursts; ++i) {
    if (rte_pktmbuf_alloc_bulk(pool, frames.data(), frames.size()) != 0) return 1;
    traffic.write(frames.data(), frames.size());
    lane_receives(lane, v4 ? lw::PortRole::v4 : lw::PortRole::v6, frames.data(), frames.size(), 1'000'000 * (i + 1));
    sink.clear();
  }
  const Counter way = v4 ? Counter::encap : direction == Direction::decap ? Counter::decap : Counter::hairpin;
  const std::uint64_t left = counters.get(way);
  std::printf("%llu packets\n", static_cast<unsigned long long>(left));
  return left == std::uint64_t{bursts} * lw::Lane::kBurst ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string way = argc > 1 ? argv[1] : "";
  const int bursts = argc > 2 ? std::atoi(argv[2]) : 0;
  if (bursts <= 0 || (way != "encap" && way != "decap" && way != "hairpin")) {
    std::fprintf(stderr, "usage: count_lane encap|decap|hairpin BURSTS\n");
    return 2;
  }
  lw::Eal::init({"count", "--no-huge", "--no-shconf", "--no-pci", "--no-telemetry", "-m", "64", "--iova-mode=va",
                 "--log-level=error", "-l", "0"});
  return run(way == "encap"   ? Direction::encap
             : way == "decap" ? Direction::decap
                              : Direction::hairpin,
             static_cast<unsigned>(bursts));
}
