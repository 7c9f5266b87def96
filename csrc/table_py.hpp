// What of the binding table other declarations show too.
#pragma once

#include <pybind11/numpy.h>

#include <cstddef>
#include <utility>

#include "binding_table.hpp"

namespace lw {

// Rows of BINDING_COUNT, and where to go on: 0 = that was all. Throws RuntimeError if nothing is counted.
std::pair<pybind11::array, std::size_t> counts_of(const BindingTable& table, std::size_t from, std::size_t limit);

}  // namespace lw
