// Filters in Python: is the text good, and what does it let pass.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <string_view>

#include "filter.hpp"

namespace py = pybind11;

namespace lw {

namespace {

const char* name_of(Filter::Engine engine) {
  switch (engine) {
    case Filter::Engine::jit:
      return "jit";
    case Filter::Engine::rte_bpf:
      return "rte_bpf";
    case Filter::Engine::libpcap:
      break;
  }
  return "libpcap";
}

bool passes(const std::string& text, const py::bytes& frame) {
  const std::string_view octets = frame;
  return Filter::passes_offline(text, reinterpret_cast<const std::uint8_t*>(octets.data()),
                                static_cast<std::uint32_t>(octets.size()));
}

}  // namespace

void register_filter(py::module_& m) {
  m.def("check_filter", &Filter::fault, py::arg("text"), py::call_guard<py::gil_scoped_release>(),
        "What libpcap says against a pcap-filter expression; None if it is good. Needs no EAL.");
  m.def("filter_passes", &passes, py::arg("text"), py::arg("frame"),
        "Whether a pcap filter lets a frame pass, asked of libpcap. Needs no EAL.");
  m.def(
      "filter_engine", [](const std::string& text) { return name_of(Filter(text).engine()); }, py::arg("text"),
      "What would run this filter: jit, rte_bpf or libpcap (which takes what librte_bpf does not).");
}

}  // namespace lw
