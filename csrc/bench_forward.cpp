#include "bench_forward.hpp"

#include <rte_cycles.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>

#include <array>
#include <stdexcept>
#include <utility>

#include "eal.hpp"
#include "packet.hpp"

namespace lw::bench {

namespace {

constexpr unsigned kPoolCache = 256;       // as the engine's
constexpr std::uint64_t kSecret = 0x5eed;  // runs repeat
constexpr std::uint64_t kTicksPerSecond = 1000;

PortRole role_of(SideId side) { return side == SideId::v4 ? PortRole::v4 : PortRole::v6; }

std::uint64_t left(const Counters& counters) {
  return counters.get(Counter::encap) + counters.get(Counter::decap) + counters.get(Counter::hairpin);
}

void send_all(std::uint16_t port, rte_mbuf** frames, std::uint16_t n) {
  const std::uint16_t sent = rte_eth_tx_burst(port, 0, frames, n);
  for (std::uint16_t i = sent; i < n; ++i) rte_pktmbuf_free(frames[i]);
}

// Worker::run() with the generator in its place.
Window run_for(const Ports& ports, Job& job, std::uint64_t cycles) {
  const TscClock clock(rte_get_tsc_hz());
  const std::uint64_t tick = rte_get_tsc_hz() / kTicksPerSecond;
  const std::uint64_t before = job.through == nullptr ? 0 : left(job.through->counters());
  Window window;
  std::array<rte_mbuf*, Lane::kBurst> frames;
  const std::uint64_t start = rte_rdtsc();
  std::uint64_t now = start, next_tick = start + tick;
  for (std::size_t turn = 0; now - start < cycles; turn = turn + 1 == job.traffic.size() ? 0 : turn + 1) {
    const SideId side = job.sides[turn];
    const std::uint16_t n = rte_eth_rx_burst(ports.id(side), 0, frames.data(), frames.size());
    job.traffic[turn].write(frames.data(), n);
    if (job.through == nullptr) {
      send_all(ports.id(side), frames.data(), n);
    } else {
      job.through->lane().receive(role_of(side), frames.data(), n, clock.ns(now));
      job.through->counters().add(Counter::busy_cycles, rte_rdtsc() - now);
      if (now >= next_tick) {
        next_tick = now + tick;
        job.through->lane().tick(clock.ns(now));
      }
    }
    window.operations += n;
    now = rte_rdtsc();
  }
  window.cycles = now - start;
  if (job.through != nullptr) window.faults = window.operations - (left(job.through->counters()) - before);
  return window;
}

}  // namespace

Ports::Ports(const std::vector<std::string>& devices, std::uint32_t mbufs, std::uint16_t data_room,
             const std::vector<std::uint16_t>& mtus) {
  if (mtus.size() != devices.size()) throw std::invalid_argument("each port has an MTU");
  for (const std::string& device : devices) ports_.push_back(std::make_unique<Port>(device, "bench"));
  pool_ = rte_pktmbuf_pool_create("bench", mbufs, kPoolCache, packet::kPrivate,
                                  static_cast<std::uint16_t>(data_room + RTE_PKTMBUF_HEADROOM), SOCKET_ID_ANY);
  if (pool_ == nullptr) throw EalError("not enough memory for the packet buffers of the benchmark");
  for (std::size_t i = 0; i < ports_.size(); ++i) {
    ports_[i]->configure({1, 1, mtus[i], true, pool_, true});
    ports_[i]->start();
  }
}

Ports::~Ports() {
  ports_.clear();
  if (Eal::running()) rte_mempool_free(pool_);
}

TxOffloads Ports::offloads(SideId side) const {
  const Port::Offloads& in_use = port(side).offloads();
  return {in_use.tx_ipv4_checksum, in_use.tx_segments};
}

std::uint32_t Ports::mbufs_in_use() const { return rte_mempool_in_use_count(pool_); }

Forwarder::Forwarder(const Ports& ports, Settings settings, const BindingTable& table)
    : settings_(std::move(settings)),
      shared_(settings_, kSecret),
      sink_({{}, {ports.id(SideId::v4), 0}, {ports.id(SideId::v6), 0}}, rte_get_tsc_hz(), counters_),
      ports_{ports.id(SideId::v4), ports.id(SideId::v6)} {
  lane_ = std::make_unique<Lane>(Lane::Parts{.index = 0,
                                             .settings = settings_,
                                             .table = table,
                                             .shared = shared_,
                                             .pool = ports.pool(),
                                             .sink = sink_,
                                             .counters = counters_,
                                             .offloads = {ports.offloads(SideId::v4), ports.offloads(SideId::v6)}});
}

void Forwarder::arm_capture() {
  constexpr std::uint32_t kSnap = 128, kBuffers = 256;
  static unsigned number = 0;  // there are several lanes, and each needs buffers of another name
  filter_ = std::make_unique<const Filter>("ether proto 0x88cc");
  tap_ = std::make_unique<CaptureTap>(CaptureTap::Setup{filter_.get(), ports_, number++, kSnap, kBuffers});
  lane_->watch(tap_.get());
}

std::vector<std::vector<Window>> forward(const Ports& ports, std::vector<Job>& jobs, const Measure& measure) {
  std::vector<std::vector<Window>> all;
  on_lcore(measure.lcore, [&] {
    for (unsigned round = 0; round < measure.rounds; ++round) {
      auto& windows = all.emplace_back();
      for (Job& job : jobs) {
        const Window warm = run_for(ports, job, cycles_of(measure.warm_s));
        Window window = run_for(ports, job, cycles_of(measure.window_s));
        window.faults += warm.faults;
        windows.push_back(window);
      }
    }
  });
  return all;
}

}  // namespace lw::bench
