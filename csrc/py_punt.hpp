// Punted and injected packets as numpy arrays and bytes.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <span>
#include <string_view>
#include <tuple>
#include <utility>

#include "punt.hpp"

namespace lw {

using Lengths = pybind11::array_t<std::uint32_t, pybind11::array::c_style>;
using Punted = std::tuple<pybind11::array_t<PuntRow>, pybind11::bytes>;

inline Punted punted_of(Punt::Batch&& batch) {
  const auto* rows = batch.rows.data();
  return {pybind11::array_t<PuntRow>(static_cast<pybind11::ssize_t>(batch.rows.size()), rows),
          pybind11::bytes(reinterpret_cast<const char*>(batch.octets.data()), batch.octets.size())};
}

inline std::span<const std::uint32_t> lengths_of(const Lengths& lengths) {
  return {lengths.data(), static_cast<std::size_t>(lengths.size())};
}

}  // namespace lw
