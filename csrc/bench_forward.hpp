// The forwarding benchmark: the loop of a worker over ports that never run dry, with a generator before the lane.
//
//   generator   receive a burst, write its headers, send it: what the machine around the lane costs
//   forward     the same through a lane, whose sink is a Worker's send()
// Windows of all jobs alternate, so that a noisy neighbour hits them alike and ratios hold.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench_lcore.hpp"
#include "bench_traffic.hpp"
#include "binding_table.hpp"
#include "capture_tap.hpp"
#include "counters.hpp"
#include "filter.hpp"
#include "lane.hpp"
#include "port.hpp"
#include "settings.hpp"
#include "shared.hpp"
#include "worker.hpp"

namespace lw::bench {

// The two ports and their buffers.
class Ports {
 public:
  Ports(const std::vector<std::string>& devices, std::uint32_t mbufs, std::uint16_t data_room,
        const std::vector<std::uint16_t>& mtus);
  ~Ports();
  Ports(const Ports&) = delete;
  Ports& operator=(const Ports&) = delete;

  const Port& port(SideId side) const { return *ports_[static_cast<unsigned>(side)]; }
  std::uint16_t id(SideId side) const { return port(side).id(); }
  rte_mempool* pool() const { return pool_; }
  TxOffloads offloads(SideId side) const;
  std::uint32_t mbufs_in_use() const;

 private:
  rte_mempool* pool_{};
  std::vector<std::unique_ptr<Port>> ports_;
};

// One worker's lane with its settings; forwards between the ports.
class Forwarder {
 public:
  Forwarder(const Ports& ports, Settings settings, const BindingTable& table);
  Lane& lane() { return *lane_; }
  const Settings& settings() const { return settings_; }
  const Counters& counters() const { return counters_; }
  Counters& counters() { return counters_; }
  // As while a capture runs whose filter takes no frame.
  void arm_capture();

 private:
  Settings settings_;
  Counters counters_;
  Shared shared_;
  Worker sink_;
  std::array<std::uint16_t, 2> ports_;
  std::unique_ptr<const Filter> filter_;
  std::unique_ptr<CaptureTap> tap_;
  std::unique_ptr<Lane> lane_;
};

struct Job {
  Forwarder* through;            // null: the generator alone
  std::vector<Traffic> traffic;  // bursts of each in turn: one, or two for both directions
  std::vector<SideId> sides;     // where it comes in
};

struct Measure {
  unsigned rounds;
  double window_s;
  double warm_s;  // before each window, not counted
  unsigned lcore;
};

// [round][job]. A fault is a frame that left by no edge.
std::vector<std::vector<Window>> forward(const Ports& ports, std::vector<Job>& jobs, const Measure& measure);

}  // namespace lw::bench
