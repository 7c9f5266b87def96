// The machine of one router: packet buffers, ports, workers. Made, started and stopped by the control side.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "binding_table.hpp"
#include "capture.hpp"
#include "counters.hpp"
#include "handover.hpp"
#include "inject.hpp"
#include "lane.hpp"
#include "numa.hpp"
#include "port.hpp"
#include "punt.hpp"
#include "settings.hpp"
#include "settings_change.hpp"
#include "shared.hpp"
#include "worker.hpp"

namespace lw {

enum class Rss : std::uint8_t { outer, inner, software };

class Engine {
 public:
  struct Plan {
    std::vector<std::string> devices;  // that of the IPv4 side and that of the IPv6 side; one = on a stick
    std::vector<unsigned> lcores;      // of the workers
    std::uint32_t mbufs;
    std::uint16_t data_room;   // octets of a frame that fit one buffer, headroom not counted
    std::uint32_t held_limit;  // buffers that each of the two fragment stores of a worker may keep
    bool offloads;             // use what the ports offer
    bool split_queues;         // on a stick: queue 0 carries the IPv4 side, queue 1 the IPv6 side (replay)
    std::uint64_t secret;
    Rss rss{Rss::outer};  // how packets are spread over workers
    std::uint16_t rx_descriptors{Port::kDescriptors};
  };

  // The NUMA nodes of these lcores, for the table; none on a machine of one node.
  static numa::Nodes nodes_of(const std::vector<unsigned>& lcores);

  Engine(Settings settings, OwnMac own_mac, BindingTable& table, const Plan& plan);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  void start();
  void stop();      // the workers end, then the ports; counters stay readable
  void close();     // gives everything back; after it only counters and settings are left
  void announce();  // own addresses to the link, and the next hops are asked for; a replay leaves it out

  // These settings instead, while packets pass: each burst sees the old ones or the new. On return no worker uses the
  // old ones any more. Returns remarks. Throws std::invalid_argument, which names the fields that cannot change in a
  // running router or what else speaks against it; then nothing has changed.
  std::vector<std::string> apply(Settings next, OwnMac own_mac);

  Punt& punt() { return punt_; }
  Punt::Batch punted();  // at_ns is on the clock CLOCK_MONOTONIC
  // Packets for the IPv6 side (inject.hpp); none is taken while no worker runs.
  std::size_t inject(std::span<const std::uint8_t> packets, std::span<const std::uint32_t> lengths);

  const Mac& mac(SideId side) const { return side == SideId::v4 ? macs_[0] : macs_[1]; }
  const Shared& shared() const { return shared_; }
  const BindingTable& table() const { return table_; }
  const std::vector<std::unique_ptr<Port>>& ports() const { return ports_; }
  const std::vector<std::string>& remarks() const { return remarks_; }
  std::size_t workers() const { return counters_.size(); }
  const Counters& counters(std::size_t worker) const { return counters_[worker]; }
  std::vector<Worker::Progress> progress() const;
  struct Queue {
    std::uint16_t port;
    std::uint16_t queue;
    std::uint64_t rx_packets;
  };
  struct WorkerStats {
    unsigned lcore;
    int numa;
    bool running;
    std::vector<Queue> queues;
    std::uint64_t busy_cycles;
    std::uint64_t idle_cycles;
  };
  std::vector<WorkerStats> worker_stats() const;
  std::uint32_t mbufs_in_use() const;
  Capture& capture() { return *capture_; }

 private:
  struct PoolFree {
    void operator()(rte_mempool* pool) const;
  };
  void open_ports();
  void choose_macs(Settings& settings);
  unsigned usable_workers();
  void remark_distance(unsigned workers);
  std::uint16_t rx_queues(const Port& port, unsigned workers) const;
  void configure_ports(unsigned workers);
  void make_workers(unsigned workers);
  Worker::Wiring wiring(std::uint16_t worker) const;
  bool one_port() const { return ports_.size() == 1; }
  void check_change(Settings& next, OwnMac own_mac) const;
  void swap_settings(std::unique_ptr<const Settings> next);

  std::mutex control_;  // start, stop and apply: one at a time
  std::unique_ptr<const Settings> settings_;
  OwnMac own_mac_;
  std::array<Mac, 2> macs_;
  BindingTable& table_;
  Plan plan_;
  std::vector<std::string> remarks_;
  std::unique_ptr<rte_mempool, PoolFree> pool_;
  std::vector<std::unique_ptr<Port>> ports_;
  std::vector<bool> promiscuous_;
  Shared shared_;
  std::vector<Counters> counters_;
  std::unique_ptr<Quiescence> quiescence_;  // of the workers: the table's grace
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::unique_ptr<Handover> handover_;  // null: each worker keeps what it receives
  std::unique_ptr<Capture> capture_;
  Punt punt_;
  Inject inject_;
  bool started_{};
  bool announced_{};
  std::atomic<bool> running_{};
};

}  // namespace lw
