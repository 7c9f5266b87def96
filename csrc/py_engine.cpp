// What Python sees of the machine: eal_init and Engine.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <utility>
#include <vector>

#include "eal.hpp"
#include "engine.hpp"
#include "py_punt.hpp"
#include "settings_py.hpp"
#include "table_py.hpp"
#include "telemetry.hpp"

namespace lw {
namespace py = pybind11;
using namespace py::literals;
namespace {

const char* name_of(NeighborState state) {
  switch (state) {
    case NeighborState::none:
      return "none";
    case NeighborState::fixed:
      return "fixed";
    case NeighborState::incomplete:
      return "incomplete";
    case NeighborState::reachable:
      return "reachable";
    case NeighborState::stale:
      return "stale";
    case NeighborState::delay:
      return "delay";
    case NeighborState::probe:
      return "probe";
  }
  return "none";
}

py::dict neighbor(const Neighbor& of) {
  const Neighbor::Snapshot now = of.snapshot();
  py::dict entry;
  entry["state"] = name_of(now.state);
  entry["mac"] = of.resolved() ? py::object(bytes_of(now.mac)) : py::none();
  return entry;
}

py::dict neighbors(const Engine& engine) {
  py::dict both;
  both["v4"] = neighbor(engine.shared().v4);
  both["v6"] = neighbor(engine.shared().v6);
  return both;
}

py::dict offloads(const Port::Offloads& in_use) {
  py::dict entry;
  entry["rx_ipv4_checksum"] = in_use.rx_ipv4_checksum;
  entry["rx_scatter"] = in_use.rx_scatter;
  entry["tx_ipv4_checksum"] = in_use.tx_ipv4_checksum;
  entry["tx_segments"] = in_use.tx_segments;
  return entry;
}

py::dict port_entry(const Port& port) {
  const PortLink link = port.link();
  const PortStats stats = port.stats();
  py::dict entry;
  entry["device"] = port.device();
  entry["driver"] = port.driver();
  entry["mac"] = bytes_of(port.mac());
  entry["mtu"] = port.mtu();
  entry["numa"] = port.numa();
  entry["link_up"] = link.up;
  entry["speed_mbps"] = link.speed_mbps;
  entry["offloads"] = offloads(port.offloads());
  entry["rx_packets"] = stats.rx_packets;
  entry["rx_missed"] = stats.rx_missed;
  entry["rx_errors"] = stats.rx_errors;
  entry["rx_no_buffer"] = stats.rx_no_buffer;
  entry["tx_packets"] = stats.tx_packets;
  entry["tx_errors"] = stats.tx_errors;
  return entry;
}

py::list ports(const Engine& engine) {
  py::list all;
  for (const auto& port : engine.ports()) all.append(port_entry(*port));
  return all;
}

py::array_t<std::uint64_t> counters(const Engine& engine) {
  py::array_t<std::uint64_t> table({engine.workers(), kCounterCount});
  auto cells = table.mutable_unchecked<2>();
  for (std::size_t worker = 0; worker < engine.workers(); ++worker) {
    for (std::size_t i = 0; i < kCounterCount; ++i) {
      cells(static_cast<py::ssize_t>(worker), static_cast<py::ssize_t>(i)) =
          engine.counters(worker).get(static_cast<Counter>(i));
    }
  }
  return table;
}

py::array binding_counters(const Engine& engine) { return counts_of(engine.table(), 0, ~std::size_t{0}).first; }

std::vector<std::pair<std::uint64_t, bool>> progress(const Engine& engine) {
  std::vector<std::pair<std::uint64_t, bool>> all;
  for (const auto& [received, quiescent] : engine.progress()) all.emplace_back(received, quiescent);
  return all;
}

py::dict macs(const Engine& engine) {
  py::dict both;
  both["v4"] = bytes_of(engine.mac(SideId::v4));
  both["v6"] = bytes_of(engine.mac(SideId::v6));
  return both;
}

Rss rss_from(const std::string& name) {
  if (name == "outer") return Rss::outer;
  if (name == "inner") return Rss::inner;
  if (name == "software") return Rss::software;
  throw py::value_error("rss has to be outer | inner | software");
}

OwnMac own_macs(const py::dict& settings) {
  const auto own = [&settings](const char* side) { return settings[side]["mac"].is_none(); };
  return {own("v4"), own("v6")};
}

std::vector<std::string> apply(Engine& engine, const py::dict& settings) {
  Settings next = settings_from(settings);
  const OwnMac own = own_macs(settings);
  const py::gil_scoped_release unlocked;
  return engine.apply(std::move(next), own);
}

Punted punted(Engine& engine) {
  Punt::Batch batch;
  {
    const py::gil_scoped_release unlocked;
    batch = engine.punted();
  }
  return punted_of(std::move(batch));
}

std::size_t inject(Engine& engine, const py::bytes& packets, const Lengths& lengths) {
  const std::string_view octets = packets;
  const std::span<const std::uint32_t> all = lengths_of(lengths);
  const py::gil_scoped_release unlocked;
  return engine.inject({reinterpret_cast<const std::uint8_t*>(octets.data()), octets.size()}, all);
}

py::list worker_stats(const Engine& engine) {
  py::list all;
  for (const Engine::WorkerStats& worker : engine.worker_stats()) {
    py::list queues;
    for (const Engine::Queue& queue : worker.queues) {
      queues.append(py::dict("port"_a = queue.port, "queue"_a = queue.queue, "rx_packets"_a = queue.rx_packets));
    }
    all.append(py::dict("lcore"_a = worker.lcore, "numa"_a = worker.numa, "running"_a = worker.running,
                        "queues"_a = queues, "busy_cycles"_a = worker.busy_cycles,
                        "idle_cycles"_a = worker.idle_cycles));
  }
  return all;
}

std::unique_ptr<Engine> make_engine(const py::dict& settings, BindingTable& table, std::vector<std::string> devices,
                                    std::vector<unsigned> lcores, std::uint32_t mbufs, std::uint16_t data_room,
                                    std::uint32_t held_limit, bool offloads, bool split_queues, std::uint64_t secret,
                                    const std::string& rss, std::uint16_t rx_descriptors) {
  Settings value = settings_from(settings);
  if (devices.empty() || devices.size() > 2) throw py::value_error("devices: one or two are needed");
  if (lcores.empty()) throw py::value_error("lcores: one worker at least is needed");
  if (value.one_port != (devices.size() == 1)) throw py::value_error("devices: their number does not fit one_port");
  const OwnMac own_mac = own_macs(settings);
  const Engine::Plan plan{std::move(devices), std::move(lcores), mbufs,  data_room,     held_limit,
                          offloads,           split_queues,      secret, rss_from(rss), rx_descriptors};
  const py::gil_scoped_release unlocked;
  return std::make_unique<Engine>(std::move(value), own_mac, table, plan);
}

using Unlocked = py::call_guard<py::gil_scoped_release>;

}  // namespace

void register_engine(py::module_& m) {
  py::register_exception<EalError>(m, "EalError", PyExc_RuntimeError);
  py::register_exception<PortError>(m, "PortError", PyExc_RuntimeError);
  m.def("eal_init", &Eal::init, py::arg("args"), Unlocked(),
        "Starts DPDK with these arguments (the first is the program's name), once in the life of the process.");
  m.def("eal_running", &Eal::running, Unlocked());
  m.def("eal_cleanup", &Eal::cleanup, Unlocked(), "Ends DPDK: no engine may be open any more.");
  m.def("eal_log", &Eal::take_log, Unlocked(), "What DPDK has logged since the last call.");

  m.def("nodes_of", &Engine::nodes_of, py::arg("lcores"),
        "The NUMA nodes of these lcores, for BindingTable(nodes=…); none on a machine of one node.");

  py::class_<Engine>(m, "Engine", "Ports and workers of one router.")
      .def(py::init(&make_engine), py::arg("settings"), py::arg("table"), py::arg("devices"), py::arg("lcores"),
           py::kw_only(), py::arg("mbufs"), py::arg("data_room"), py::arg("held_limit"), py::arg("offloads") = true,
           py::arg("split_queues") = false, py::arg("secret"), py::arg("rss") = "outer",
           py::arg("rx_descriptors") = Port::kDescriptors, py::keep_alive<1, 3>())
      .def("start", &Engine::start, Unlocked())
      .def("stop", &Engine::stop, Unlocked(), "The workers end, then the ports; counters stay readable.")
      .def("close", &Engine::close, Unlocked(), "Gives everything back; counters stay readable.")
      .def("announce", &Engine::announce, "Announces the own addresses again, as at start.")
      .def("apply", &apply, py::arg("settings"),
           "Other settings under traffic; returns remarks. Raises ValueError, which names what only a restart can "
           "change, and then changes nothing.")
      .def_property_readonly(
          "punt_fd", [](Engine& engine) { return engine.punt().fd(); },
          "Readable when punted() has something to tell; no longer after it.")
      .def("punted", &punted, "All that waits for the control side: (PUNT_ROW array, octets).")
      .def("inject", &inject, py::arg("packets"), py::arg("lengths"),
           "Sends whole IPv6 packets, which lie one behind the other, on the IPv6 side; returns how many, from the "
           "first on, were taken. Raises ValueError, and takes none, if one is no such packet or longer than the MTU.")
      .def("worker_stats", &worker_stats,
           "Per worker: lcore, numa, running, queues (port, queue, rx_packets), busy_cycles, idle_cycles.")
      .def("serve_telemetry", &telemetry::serve, Unlocked(),
           "Answers /lwaftr/… on DPDK's telemetry socket for this engine until it is closed.")
      .def("counters", &counters, "uint64 [workers, counters], in the order of COUNTERS.")
      .def("progress", &progress, "Per worker: frames received, and whether none of them waits for a next hop.")
      .def("neighbors", &neighbors, "Per side: state of the next hop and its MAC.")
      .def("ports", &ports, "Per port: device, driver, mac, mtu, numa, link, offloads in use and statistics.")
      .def("binding_counters", &binding_counters,
           "What went through each binding, summed over the workers: an array of BINDING_COUNT.")
      .def("macs", &macs, "Per side: the MAC address in use.")
      .def("mbufs_in_use", &Engine::mbufs_in_use)
      .def_property_readonly("workers", &Engine::workers)
      .def_property_readonly("remarks", &Engine::remarks, "What could not be set up as asked for.");
}

}  // namespace lw
