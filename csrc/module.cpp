// The extension module pylwaftr._core: what it is made of.
#include <pybind11/pybind11.h>

#include "counters.hpp"

namespace lw {

void register_table(pybind11::module_& m);   // py_table.cpp
void register_punt(pybind11::module_& m);    // py_punt.cpp
void register_lane(pybind11::module_& m);    // py_lane.cpp
void register_engine(pybind11::module_& m);  // py_engine.cpp
void register_filter(pybind11::module_& m);  // py_filter.cpp
void register_bench(pybind11::module_& m);   // py_bench.cpp
void register_tester(pybind11::module_& m);  // py_bench_ports.cpp
void register_source(pybind11::module_& m);  // py_bench_source.cpp
void register_shares(pybind11::module_& m);  // py_bench_shares.cpp

namespace {

pybind11::tuple counter_descriptions() {
  pybind11::tuple all(kCounterCount);
  for (std::size_t i = 0; i < kCounterCount; ++i) {
    const CounterInfo& of = kCounters[i];
    all[i] = pybind11::make_tuple(of.name, of.kind_name, of.unit, of.requirement, of.help);
  }
  return all;
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "The compiled core of pylwaftr: binding table, stages, and the machine of ports and workers.";
  m.attr("COUNTERS") = counter_descriptions();  // (name, kind, unit, requirement, help), in the order of counter arrays
  register_table(m);
  register_punt(m);
  register_lane(m);
  register_engine(m);
  register_filter(m);
  register_bench(m);
  register_tester(m);
  register_source(m);
  register_shares(m);
}

}  // namespace lw
