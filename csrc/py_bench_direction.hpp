// The names of directions in Python.
#pragma once

#include <stdexcept>
#include <string>

#include "bench_frame.hpp"

namespace lw::bench {

// Throws std::invalid_argument, a ValueError there.
inline Direction direction_of(const std::string& name) {
  if (name == "encap") return Direction::encap;
  if (name == "decap") return Direction::decap;
  if (name == "hairpin") return Direction::hairpin;
  throw std::invalid_argument("direction is \"encap\", \"decap\" or \"hairpin\"");
}

}  // namespace lw::bench
