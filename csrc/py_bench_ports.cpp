// What `pylwaftr bench ports` asks of the core: frames by number, what came back of them. No statistics, no decisions.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "bench_judge.hpp"
#include "bench_ports.hpp"
#include "bench_stream.hpp"
#include "packet.hpp"
#include "settings_py.hpp"

namespace py = pybind11;
using namespace py::literals;

namespace lw {

namespace {

using bench::BindingRows;
using bench::Direction;
using bench::Judge;
using bench::Ledger;
using bench::Sent;
using bench::Stream;
using bench::Tester;
using Rows = py::array_t<BindingRow, py::array::c_style>;
using TagsTuple = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>;

struct Bindings {
  BindingRows rows;
};

SideId side_of(std::string_view name) {
  if (name != "v4" && name != "v6") throw py::value_error("side is \"v4\" or \"v6\"");
  return name == "v4" ? SideId::v4 : SideId::v6;
}
Direction direction_of(std::string_view name) {
  if (name != "encap" && name != "decap") throw py::value_error("direction is \"encap\" or \"decap\"");
  return name == "encap" ? Direction::encap : Direction::decap;
}
Judge::Tags tags_of(const TagsTuple& tags) { return {std::get<0>(tags), std::get<1>(tags), std::get<2>(tags)}; }

std::span<const std::uint8_t> octets_of(const py::bytes& from) {
  const std::string_view view = from;
  return {reinterpret_cast<const std::uint8_t*>(view.data()), view.size()};
}
py::bytes bytes_of(std::span<const std::uint8_t> octets) {
  return {reinterpret_cast<const char*>(octets.data()), octets.size()};
}
template <class T>
py::array_t<T> array_of(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

Bindings bindings_of(const Rows& rows) {
  const BindingRow* const first = rows.data();
  const auto n = static_cast<std::size_t>(rows.size());
  const py::gil_scoped_release unlocked;
  return {std::make_shared<const std::vector<BindingRow>>(first, first + n)};
}

Stream stream_of(std::string_view direction, const Bindings& bindings, std::vector<std::uint16_t> octets,
                 const py::bytes& to, const py::bytes& from, Ipv4 host, std::uint16_t trial, std::uint64_t frames) {
  return Stream({.direction = direction_of(direction),
                 .rows = bindings.rows,
                 .octets = std::move(octets),
                 .ends = {mac_from(to), mac_from(from), host},
                 .trial = trial,
                 .frames = frames});
}

py::bytes frame_of(const Stream& stream, std::uint64_t number, std::uint64_t tsc) {
  std::vector<std::uint8_t> frame(stream.octets(number));
  stream.write(number, frame.data());
  stream.stamp(frame.data(), tsc);
  return bytes_of(frame);
}

py::dict ledger_of(const Ledger& from) {
  py::dict wrong;
  for (std::size_t i = 0; i < bench::kWrong.size(); ++i) {
    if (from.wrong[i] != 0) wrong[py::str(std::string(bench::kWrong[i]))] = from.wrong[i];
  }
  return py::dict("right"_a = from.right, "reordered"_a = from.reordered, "duplicates"_a = from.duplicates,
                  "late"_a = from.late, "misdirected"_a = from.misdirected, "wrong"_a = wrong,
                  "icmp_errors"_a = from.icmp_errors, "other"_a = from.other,
                  "cycles"_a = from.last_tsc - from.first_tsc, "by_binding"_a = array_of(from.by_binding),
                  "delays"_a = array_of(from.delays));
}
py::dict sent_of(const Sent& from) {
  return py::dict("frames"_a = from.frames, "cycles"_a = from.ended_tsc - from.began_tsc,
                  "worst_lag"_a = from.worst_lag, "by_binding"_a = array_of(from.by_binding));
}

py::dict finish(Tester& tester) {
  Tester::Result result;
  {
    const py::gil_scoped_release unlocked;
    result = tester.finish();
  }
  return py::dict("sent"_a = py::dict("v4"_a = sent_of(result.sent[0]), "v6"_a = sent_of(result.sent[1])),
                  "seen"_a = py::dict("v4"_a = ledger_of(result.ledger[0]), "v6"_a = ledger_of(result.ledger[1])));
}

const char* see(Judge& judge, const py::bytes& frame, std::uint64_t tsc) {
  const auto octets = octets_of(frame);
  switch (judge.see(octets.data(), static_cast<std::uint32_t>(octets.size()), tsc)) {
    case Judge::Kind::test:
      return "test";
    case Judge::Kind::neighbour:
      return "neighbour";
    case Judge::Kind::other:
      break;
  }
  return "other";
}

void register_frames(py::module_& m) {
  py::class_<Bindings>(m, "BenchBindings", "Rows that streams of test frames choose from.")
      .def(py::init(&bindings_of), "rows"_a);
  py::class_<Stream>(m, "BenchStream", "The test frames of one direction, by number.")
      .def(py::init(&stream_of), "direction"_a, "bindings"_a, "octets"_a, "to"_a, "source"_a, "host"_a, "trial"_a,
           "frames"_a)
      .def("frame", &frame_of, "number"_a, "tsc"_a = 0)
      .def(
          "binding", [](const Stream& stream, std::uint64_t number) { return stream.subscriber(number).binding; },
          "number"_a)
      .def_static(
          "least", [](std::string_view direction) { return Stream::least(direction_of(direction)); }, "direction"_a);
  py::class_<Judge>(m, "BenchJudge", "What came back on one side of the test frames of one trial.")
      .def(py::init([](std::string_view side, std::uint16_t trial, std::optional<const Stream*> expected,
                       const TagsTuple& tags) {
             return std::make_unique<Judge>(side_of(side), trial, expected.value_or(nullptr), tags_of(tags));
           }),
           "side"_a, "trial"_a, "expected"_a = py::none(), "tags"_a = TagsTuple{0, 1, 0}, py::keep_alive<1, 4>())
      .def("see", &see, "frame"_a, "tsc"_a = 0, "test | neighbour | other")
      .def("ledger", [](Judge& judge) { return ledger_of(judge.ledger()); });
}

}  // namespace

void register_tester(py::module_& m) {
  register_frames(m);
  using Unlocked = py::call_guard<py::gil_scoped_release>;
  py::class_<Tester>(m, "BenchTester", "The two ends of a router under test.")
      .def(py::init([](const std::vector<std::string>& devices, std::uint32_t mbufs, std::uint16_t data_room,
                       const std::vector<std::uint16_t>& mtus, const std::vector<unsigned>& lcores) {
             return std::make_unique<Tester>(Tester::Setup{devices, mbufs, data_room, mtus, lcores});
           }),
           "devices"_a, "mbufs"_a, "data_room"_a, "mtus"_a, "lcores"_a, Unlocked())
      .def(
          "begin",
          [](Tester& tester, std::uint16_t number, const std::vector<Stream>& streams, double rate,
             const TagsTuple& tags) { tester.begin({number, streams, rate, tags_of(tags)}); },
          "number"_a, "streams"_a, "rate"_a, "tags"_a,
          "Sends one or two streams, `rate` frames a second of each; tags: first number, every, at most.")
      .def("sending", &Tester::sending)
      .def("complete", &Tester::complete, "All frames were sent, and are back as they must be.")
      .def("finish", &finish, "Ends the trial: {sent: {v4, v6}, seen: {v4, v6}}.")
      .def(
          "heard",
          [](Tester& tester, std::string_view side) {
            py::list frames;
            for (const auto& frame : tester.heard(side_of(side))) frames.append(bytes_of(frame));
            return frames;
          },
          "side"_a, "ARP and neighbour discovery since the last call.")
      .def(
          "send",
          [](Tester& tester, std::string_view side, const py::bytes& frame) {
            return tester.send(side_of(side), octets_of(frame));
          },
          "side"_a, "frame"_a)
      .def(
          "mac",
          [](const Tester& tester, std::string_view side) {
            const Mac mac = tester.mac(side_of(side));
            return bytes_of(mac.octets);
          },
          "side"_a)
      .def(
          "link",
          [](const Tester& tester, std::string_view side) {
            const PortLink link = tester.link(side_of(side));
            return std::pair(link.up, link.speed_mbps);
          },
          "side"_a, "(up, Mbit/s)")
      .def(
          "remark", [](const Tester& tester, std::string_view side) { return tester.remark(side_of(side)); }, "side"_a);
}

}  // namespace lw
