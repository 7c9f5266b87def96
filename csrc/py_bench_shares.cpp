// What the reports of the benchmarks ask of the core beside the numbers: whose packets they were.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "bench_fleet.hpp"
#include "bench_shares.hpp"
#include "binding_table.hpp"
#include "py_bench_direction.hpp"

namespace py = pybind11;
using namespace py::literals;

namespace lw {

namespace {

using Numbers = py::array_t<std::uint32_t, py::array::c_style>;

bench::By by_of(const std::string& name) {
  if (name == "outer") return bench::By::outer;
  if (name == "inner") return bench::By::inner;
  if (name == "software") return bench::By::software;
  throw py::value_error("by is \"outer\", \"inner\" or \"software\"");
}
template <class T>
py::array_t<T> array_of(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}
std::span<const std::uint32_t> span_of(const Numbers& numbers) {
  return {numbers.data(), static_cast<std::size_t>(numbers.size())};
}

py::tuple homes(const BindingTable& table, const Numbers& numbers) {
  std::vector<BindingKey> keys;
  keys.reserve(static_cast<std::size_t>(numbers.size()));
  for (const std::uint32_t number : span_of(numbers)) keys.push_back(bench::fleet::key(number));
  const BindingTable::Homes found = table.homes(keys);
  return py::make_tuple(found.bound, found.first);
}

}  // namespace

void register_shares(py::module_& m) {
  m.def(
      "bench_draws",
      [](const std::string& direction, std::uint32_t bindings, std::size_t packets, std::uint64_t seed) {
        return array_of(bench::draws(bench::direction_of(direction), bindings, packets, seed));
      },
      "direction"_a, "bindings"_a, "packets"_a, "seed"_a = 1,
      "The binding (number, uint32) of each of the first packets that a generator or BenchSource of this seed makes; "
      "of hairpinned ones that of the sender. Raises ValueError for no or more than 2^28 bindings.");
  m.def(
      "bench_queues",
      [](const std::string& direction, const std::string& by, const Numbers& numbers, unsigned queues,
         std::uint64_t secret, std::uint8_t mask) {
        return array_of(
            bench::queues_of(span_of(numbers), bench::direction_of(direction), {by_of(by), queues, secret, mask}));
      },
      "direction"_a, "by"_a, py::arg("numbers").noconvert(), "queues"_a, py::kw_only(), "secret"_a = 0,
      "subscriber_mask"_a = 56,
      "Which queue (uint16) has the packets of each of these bindings (uint32). by: \"outer\" and \"inner\" as RSS "
      "with "
      "Microsoft's Toeplitz key and 128 entries does it, the other end being 198.51.100.1 and the BR; \"software\" as "
      "dataplane.rss: software does. Raises ValueError for unknown words and more than 128 queues.");
  m.def(
      "bench_homes", &homes, "table"_a, py::arg("numbers").noconvert(),
      "Of these bindings (uint32): how many are in the table, and how many of them in the first of their two buckets.");
}

}  // namespace lw
