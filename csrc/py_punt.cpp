#include "py_punt.hpp"

namespace py = pybind11;

namespace lw {

void register_punt(py::module_& m) {
  PYBIND11_NUMPY_DTYPE(PuntRow, offset, length, kind, lane, reserved, at_ns);
  m.attr("PUNT_ROW") = py::dtype::of<PuntRow>();
  m.attr("PUNT_PCP") = static_cast<int>(PuntKind::pcp);
  m.attr("PUNT_MISS") = static_cast<int>(PuntKind::miss);
  m.attr("PUNT_MOVE") = static_cast<int>(PuntKind::move);
}

}  // namespace lw
