// The test lane in Python.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <string_view>

#include "harness.hpp"
#include "py_punt.hpp"
#include "settings_py.hpp"

namespace py = pybind11;

namespace lw {

namespace {

SideId side_of(std::string_view name) {
  if (name == "v4") return SideId::v4;
  if (name == "v6") return SideId::v6;
  throw py::value_error("side is \"v4\" or \"v6\"");
}

Harness::Octets octets_of(const py::bytes& frame) {
  const std::string_view view = frame;
  return {reinterpret_cast<const std::uint8_t*>(view.data()), view.size()};
}

void feed_many(Harness& lane, std::string_view side, const std::vector<py::bytes>& frames) {
  std::vector<Harness::Octets> octets;
  for (const py::bytes& frame : frames) octets.push_back(octets_of(frame));
  lane.feed(side_of(side), octets);
}

void feed(Harness& lane, std::string_view side, const py::bytes& frame, const std::vector<std::uint32_t>& segments) {
  const Harness::Octets octets = octets_of(frame);
  lane.feed(side_of(side), {&octets, 1}, segments);
}

py::list take(Harness& lane) {
  py::list frames;
  for (const Harness::Frame& frame : lane.take()) {
    frames.append(py::make_tuple(frame.side == SideId::v4 ? "v4" : "v6",
                                 py::bytes(reinterpret_cast<const char*>(frame.octets.data()), frame.octets.size())));
  }
  return frames;
}

py::bytes bytes_of(const Ipv6& address) { return {reinterpret_cast<const char*>(&address), sizeof address}; }

py::list take_ends(Harness& lane) {
  py::list ends;
  for (const Harness::End& end : lane.take_ends()) {
    py::dict one;
    one["side"] = end.side == SideId::v4 ? "v4" : "v6";
    one["way"] = info(end.way).name;
    one["inner"] = end.inner;
    if (end.looked_up) one["key"] = py::make_tuple(end.key.ipv4, end.key.psid);
    if (end.found) one["softwire"] = py::make_tuple(bytes_of(end.softwire.b4), bytes_of(end.softwire.br));
    ends.append(one);
  }
  return ends;
}

Harness::Offloads offloads_of(std::string_view name) {
  if (name == "none") return Harness::Offloads::none;
  if (name == "checksum") return Harness::Offloads::checksum;
  if (name == "open") return Harness::Offloads::open;
  throw py::value_error("offloads are \"none\", \"checksum\" or \"open\"");
}

py::dict counters(const Harness& lane) {
  py::dict values;
  for (std::size_t i = 0; i < kCounterCount; ++i) {
    values[py::str(std::string(kCounters[i].name))] = lane.counters().get(static_cast<Counter>(i));
  }
  return values;
}

}  // namespace

void register_lane(py::module_& m) {
  py::class_<Harness>(m, "Lane", "One worker's stages without ports: frames in, frames out, time by hand.")
      .def(py::init(
               [](const py::dict& settings, const BindingTable& table, std::uint32_t mbufs, std::string_view offloads) {
                 return std::make_unique<Harness>(settings_from(settings), table, mbufs, offloads_of(offloads));
               }),
           py::arg("settings"), py::arg("table"), py::arg("mbufs") = 4096, py::arg("offloads") = "none",
           py::keep_alive<1, 3>(), "offloads: what the ports are taken to do: none | checksum | open.")
      .def("feed", &feed, py::arg("side"), py::arg("frame"), py::arg("segments") = std::vector<std::uint32_t>{},
           "One frame, cut into buffers of the given lengths.")
      .def("feed_many", &feed_many, py::arg("side"), py::arg("frames"), "One burst of at most 64 frames.")
      .def("advance", &Harness::advance, py::arg("ms"), "Lets time pass and runs the timers.")
      .def("interface_up", &Harness::interface_up, "Starts announcements and resolution.")
      .def("drop_held", &Harness::drop_held, "Drops and counts all that waits inside.")
      .def(
          "set_next_hop",
          [](Harness& lane, std::string_view side, const py::bytes& mac) {
            lane.set_next_hop(side_of(side), mac_from(mac));
          },
          py::arg("side"), py::arg("mac"), "As if the next hop of the side had just answered with this MAC.")
      .def("take", &take, "The frames sent since the last call: (side, octets), in order.")
      .def("watch", &Harness::watch, "Records how packets end, from now on.")
      .def("take_ends", &take_ends,
           "How the packets since the last call ended: dicts of side, way (counter name), inner (offset of the IPv4 "
           "header "
           "behind the link header), key (IPv4 address, PSID) if one was looked up, softwire (B4, BR) if it was found.")
      .def(
          "punted", [](Harness& lane) { return punted_of(lane.punted()); },
          "What waits for the control side: (PUNT_ROW array, octets).")
      .def(
          "inject",
          [](Harness& lane, const py::bytes& packets, const Lengths& lengths) {
            return lane.inject(octets_of(packets), lengths_of(lengths));
          },
          py::arg("packets"), py::arg("lengths"), "As Engine.inject; they are sent before it returns.")
      .def(
          "apply", [](Harness& lane, const py::dict& settings) { lane.apply(settings_from(settings)); },
          py::arg("settings"), "Other settings from the next burst on.")
      .def("counters", &counters, "Counter name -> value.")
      .def("mbufs_in_use", &Harness::mbufs_in_use)
      .def("quiescent", &Harness::quiescent);
}

}  // namespace lw
