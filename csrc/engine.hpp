// The machine of one router: packet buffers, ports, workers. Made, started and stopped by the control side.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "binding_table.hpp"
#include "capture.hpp"
#include "counters.hpp"
#include "lane.hpp"
#include "port.hpp"
#include "settings.hpp"
#include "shared.hpp"
#include "worker.hpp"

namespace lw {

class Engine {
 public:
  struct Plan {
    std::vector<std::string> devices;  // that of the IPv4 side and that of the IPv6 side; one = on a stick
    std::vector<unsigned> lcores;      // of the workers
    std::uint32_t mbufs;
    std::uint16_t data_room;   // octets of a frame that fit one buffer, headroom not counted
    std::uint32_t held_limit;  // buffers that each of the two fragment stores of a worker may keep
    bool split_queues;         // on a stick: queue 0 carries the IPv4 side, queue 1 the IPv6 side (replay)
    std::uint64_t secret;
  };
  // Whether the MAC of a side comes from its port.
  struct OwnMac {
    bool v4;
    bool v6;
  };

  Engine(Settings settings, OwnMac own_mac, BindingTable& table, const Plan& plan);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  void start();
  void stop();      // the workers end, then the ports; counters stay readable
  void close();     // gives everything back; after it only counters and settings are left
  void announce();  // own addresses to the link, and the next hops are asked for; a replay leaves it out

  const Settings& settings() const { return settings_; }
  const Shared& shared() const { return shared_; }
  const std::vector<std::unique_ptr<Port>>& ports() const { return ports_; }
  const std::vector<std::string>& remarks() const { return remarks_; }
  std::size_t workers() const { return counters_.size(); }
  const Counters& counters(std::size_t worker) const { return counters_[worker]; }
  std::vector<Worker::Progress> progress() const;
  std::uint32_t mbufs_in_use() const;
  Capture& capture() { return *capture_; }

 private:
  struct PoolFree {
    void operator()(rte_mempool* pool) const;
  };
  void open_ports();
  void choose_macs(OwnMac own_mac);
  unsigned usable_workers();
  void configure_ports(unsigned workers);
  void make_workers(unsigned workers);
  Worker::Wiring wiring(std::uint16_t worker) const;
  void wait_for_turns() const;
  bool one_port() const { return ports_.size() == 1; }

  Settings settings_;
  BindingTable& table_;
  Plan plan_;
  std::vector<std::string> remarks_;
  std::unique_ptr<rte_mempool, PoolFree> pool_;
  std::vector<std::unique_ptr<Port>> ports_;
  std::vector<bool> promiscuous_;
  Shared shared_;
  std::vector<Counters> counters_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::unique_ptr<Capture> capture_;
  bool started_{};
  bool running_{};
};

}  // namespace lw
