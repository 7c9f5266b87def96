// What `pylwaftr bench` asks of the core: numbers of cycles and operations, [round, job, …]. No statistics.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bench_forward.hpp"
#include "bench_table.hpp"
#include "bench_updates.hpp"
#include "settings_py.hpp"

namespace py = pybind11;
using namespace py::literals;

namespace lw {

namespace {

using bench::Direction;
using bench::Forwarder;
using bench::Ports;
using bench::TableBench;
using bench::Traffic;
using bench::Window;
using Cells = py::array_t<std::uint64_t>;

template <class Value>
Value chosen(const std::string& name, const std::vector<std::pair<std::string, Value>>& choices) {
  for (const auto& [text, value] : choices) {
    if (text == name) return value;
  }
  throw py::value_error("unknown: " + name);
}

std::vector<Direction> directions(const std::string& name) {
  if (name == "both") return {Direction::encap, Direction::decap};
  return {chosen<Direction>(
      name, {{"encap", Direction::encap}, {"decap", Direction::decap}, {"hairpin", Direction::hairpin}})};
}

bench::Work work_of(const std::string& name) {
  using bench::Work;
  return chosen<Work>(name, {{"keys", Work::keys},
                             {"find", Work::find},
                             {"rte_find", Work::rte_find},
                             {"insert", Work::insert},
                             {"rte_insert", Work::rte_insert},
                             {"remove", Work::remove},
                             {"rte_remove", Work::rte_remove},
                             {"mixed", Work::mixed},
                             {"rte_mixed", Work::rte_mixed}});
}

template <class Row, std::size_t n>
Cells cells_of(const std::vector<std::vector<Row>>& rounds, const std::uint64_t Row::* const (&fields)[n]) {
  const std::size_t width = rounds.empty() ? 0 : rounds.front().size();
  Cells all({rounds.size(), width, n});
  std::uint64_t* to = all.mutable_data();
  for (const auto& round : rounds) {
    for (const Row& row : round) {
      for (const auto field : fields) *to++ = row.*field;
    }
  }
  return all;
}
Cells windows_of(const std::vector<std::vector<Window>>& rounds) {
  return cells_of<Window>(rounds, {&Window::operations, &Window::cycles, &Window::faults});
}

// (lane or None, direction, bindings, sizes of IPv4-side frames, of IPv6-side frames, tcp, MACs of the two sides)
using JobTuple = std::tuple<std::optional<Forwarder*>, std::string, std::uint32_t, std::vector<std::uint16_t>,
                            std::vector<std::uint16_t>, bool, std::pair<py::bytes, py::bytes>>;

bench::Job job_of(const JobTuple& from) {
  const auto& [through, name, bindings, octets4, octets6, tcp, macs] = from;
  bench::Job job{through.value_or(nullptr), {}, {}};
  for (const Direction direction : directions(name)) {
    const bool v4 = direction == Direction::encap;
    job.traffic.emplace_back(
        Traffic::Plan{direction, bindings, v4 ? octets4 : octets6, tcp, mac_from(v4 ? macs.first : macs.second)});
    job.sides.push_back(v4 ? SideId::v4 : SideId::v6);
  }
  return job;
}

Cells measure_forward(const Ports& ports, const std::vector<JobTuple>& wanted, unsigned rounds, double window_s,
                      double warm_s, unsigned lcore) {
  std::vector<bench::Job> jobs;
  for (const JobTuple& one : wanted) jobs.push_back(job_of(one));
  std::vector<std::vector<Window>> all;
  {
    const py::gil_scoped_release unlocked;
    all = bench::forward(ports, jobs, {rounds, window_s, warm_s, lcore});
  }
  return windows_of(all);
}

py::dict counters(const Forwarder& lane) {
  py::dict moved;
  for (std::size_t i = 0; i < kCounterCount; ++i) {
    const std::uint64_t value = lane.counters().get(static_cast<Counter>(i));
    if (value != 0) moved[py::str(std::string(kCounters[i].name))] = value;
  }
  return moved;
}

py::array_t<BindingRow> rows(std::uint32_t first, std::uint32_t count) {
  if (first > bench::fleet::kMost || count > bench::fleet::kMost - first)
    throw py::value_error("at most 2^28 bindings");
  py::array_t<BindingRow> all(count);
  for (std::uint32_t i = 0; i < count; ++i) all.mutable_data()[i] = bench::fleet::row(first + i);
  return all;
}

Cells measure(TableBench& table, const std::vector<std::string>& names, unsigned rounds, double window_s) {
  std::vector<bench::Work> works;
  for (const std::string& name : names) works.push_back(work_of(name));
  std::vector<std::vector<Window>> all;
  {
    const py::gil_scoped_release unlocked;
    all = table.measure(works, rounds, window_s);
  }
  return windows_of(all);
}

py::tuple updates(std::uint32_t bindings, unsigned batch, double rate, unsigned rounds, double window_s, unsigned lcore,
                  unsigned writer_cpu, unsigned jobs) {
  bench::UpdatesResult all;
  {
    const py::gil_scoped_release unlocked;
    all = bench::updates({bindings, batch, rate, rounds, window_s, lcore, writer_cpu, jobs});
  }
  using Row = bench::UpdatesWindow;
  const auto cells = [](const std::vector<std::vector<Row>>& windows) {
    return cells_of<Row>(windows, {&Row::look_ups, &Row::cycles, &Row::missed, &Row::wrong, &Row::updates,
                                   &Row::replaced, &Row::refused, &Row::job});
  };
  return py::make_tuple(cells(all.rounds), cells(all.jobs));
}

py::tuple build_of(const TableBench::Build& build) {
  return py::make_tuple(build.cycles, build.octets, build.writer_octets);
}

}  // namespace

void register_bench(py::module_& m) {
  using Unlocked = py::call_guard<py::gil_scoped_release>;
  m.def("bench_tsc_hz", &bench::tsc_hz);
  m.def("bench_rows", &rows, "first"_a, "count"_a, "Bindings of the benchmarks, by number.");
  py::class_<Ports>(m, "BenchPorts", "Two ports and their buffers.")
      .def(py::init<const std::vector<std::string>&, std::uint32_t, std::uint16_t, const std::vector<std::uint16_t>&>(),
           "devices"_a, "mbufs"_a, "data_room"_a, "mtus"_a, Unlocked())
      .def("mbufs_in_use", &Ports::mbufs_in_use);
  py::class_<Forwarder>(m, "BenchLane", "A worker's lane between two ports.")
      .def(py::init([](const Ports& ports, const py::dict& settings, const BindingTable& table) {
             return std::make_unique<Forwarder>(ports, settings_from(settings), table);
           }),
           "ports"_a, "settings"_a, "table"_a, py::keep_alive<1, 2>(), py::keep_alive<1, 4>())
      .def("arm_capture", &Forwarder::arm_capture, "As while a capture runs whose filter takes no frame.")
      .def("counters", &counters, "Those that are not 0.");
  m.def("bench_forward", &measure_forward, "ports"_a, "jobs"_a, "rounds"_a, "window_s"_a, "warm_s"_a, "lcore"_a,
        "[round, job, (packets, cycles, packets that left by no edge)]");
  py::class_<TableBench>(m, "BenchTable", "A full binding table, and rte_hash beside it.")
      .def(py::init<std::uint32_t, bool, unsigned>(), "bindings"_a, "with_rte"_a, "lcore"_a, Unlocked())
      .def("measure", &measure, "works"_a, "rounds"_a, "window_s"_a, "[round, work, (operations, cycles, faults)]")
      .def_property_readonly("built", [](const TableBench& table) { return build_of(table.built()); })
      .def_property_readonly("rte_built", [](const TableBench& table) { return build_of(table.rte_built()); });
  m.def("bench_updates", &updates, "bindings"_a, "batch"_a, "rate"_a, "rounds"_a, "window_s"_a, "lcore"_a,
        "writer_cpu"_a, "jobs"_a,
        "[round, (idle, busy, writing), (look-ups, cycles, missed, wrong, updates, replaced, refused, cycles of the "
        "job)], the same with [job, (replacing, growing), ...]");
  m.def(
      "bench_always_hits", [](BindingTable& table) { table.answer_by(&bench::fleet::constant_hit); }, "table"_a,
      "Bindings of the benchmarks are found by arithmetic from now on: what all but the table costs.");
}

}  // namespace lw
