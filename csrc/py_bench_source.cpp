// What the benchmarks of a whole router ask of the core: frames on the queues of its ports, at a rate.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bench_pacer.hpp"
#include "bench_source.hpp"
#include "py_bench_direction.hpp"
#include "settings_py.hpp"

namespace py = pybind11;
using namespace py::literals;

namespace lw {

namespace {

using bench::Direction;
using bench::FrameSource;
using bench::Pacer;
using bench::SourceWords;
using Words = py::array_t<std::uint64_t, py::array::c_style>;

std::unique_ptr<FrameSource> make_source(std::uint16_t port, std::uint16_t queue, const std::string& direction,
                                         std::uint32_t bindings, std::vector<std::uint16_t> octets,
                                         const py::bytes& mac, Words words, bool tcp, std::uint64_t seed,
                                         const std::string& pool) {
  if (words.size() != sizeof(SourceWords) / sizeof(std::uint64_t)) throw py::value_error("words: 16 are needed");
  auto& shared = *reinterpret_cast<SourceWords*>(words.mutable_data());  // ValueError if it cannot be written
  auto source = std::make_unique<FrameSource>(
      port, queue,
      bench::Traffic::Plan{bench::direction_of(direction), bindings, std::move(octets), tcp, mac_from(mac), seed}, pool,
      shared);
  words.release();  // a worker may write to it for as long as the process lives
  return source;
}

}  // namespace

void register_source(py::module_& m) {
  py::class_<Pacer>(m, "BenchPacer", "The arrivals of a BenchSource, with the time as an argument.")
      .def(py::init<std::uint64_t>(), "hz"_a)
      .def("poll", &Pacer::poll, "now"_a, "rate"_a, "ring"_a, "most"_a,
           "A poll at `now` (cycles) for up to `most` frames: how many it gets. A new rate counts from this poll on.")
      .def("lose", &Pacer::lose, "frames"_a, "For so many of the last poll there was no buffer: they count as missed.")
      .def_property_readonly(
          "counts",
          [](const Pacer& pacer) {
            const Pacer::Counts& counts = pacer.counts();
            return std::make_tuple(counts.offered, counts.given, counts.missed, counts.polls);
          },
          "(offered, given, missed, polls)")
      .def_property_readonly("gap", &Pacer::gap, "Cycles between the last two polls.");
  py::class_<FrameSource>(
      m, "BenchSource",
      "Traffic on one receive queue of a net_null port (with no-rx=1 an empty poll costs least), as a NIC would bring "
      "it: frames arrive at a rate, `ring` of them wait, the others are missed. Each is of a random one of the "
      "bindings 0 to `bindings` - 1 of bench_rows(), or of some of them. Any engine that polls the queue receives "
      "them, running "
      "or not yet started.")
      .def(py::init(&make_source), "port_id"_a, "queue"_a, "direction"_a, "bindings"_a, "octets"_a, "mac"_a,
           py::arg("words").noconvert(), py::kw_only(), "tcp"_a = false, "seed"_a = 1, "pool"_a = "pylwaftr",
           "direction: \"encap\" for the port of the IPv4 side, \"decap\" or \"hairpin\" for that of the IPv6 side. "
           "octets: frame sizes, in turn, without FCS (BenchSource.least). mac: that of the router on this side. seed: "
           "sources of one seed bring the same frames. pool: where buffers come from; an engine's is \"pylwaftr\".\n\n"
           "words: uint64[16], may be memory that processes share; it stays referenced until the process ends. Of the "
           "control side: [0] frames a second, 0 = none, 2^64-1 = as many as are polled; [1] ring, 0 = 4096; [2] the "
           "first of the bindings that frames are of, [3] how many from there on, 0 = all. Of the worker: [8] offered "
           "= [9] given + [10] missed + what waits; [11] longest time between two polls, in cycles "
           "of bench_tsc_hz(), which the reader may set to 0; [12] polls. They begin at 0 with this source.\n\n"
           "Raises EalError if the port is no net_null, the queue is none or has a source, or the pool does not exist; "
           "ValueError for a bad direction, bindings, sizes, mac or words; TypeError for words of another type.")
      .def("detach", &FrameSource::detach,
           "No frames any more, from the next poll on. Has to be done before the engine is closed (also by the end of "
           "this object). The words keep their last values.")
      .def_static(
          "least", [](const std::string& direction) { return bench::Traffic::least(bench::direction_of(direction)); },
          "direction"_a, "Octets of the smallest frame, without FCS.");
}

}  // namespace lw
