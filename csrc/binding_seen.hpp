// The keys of one batch, to find those that come twice: open addressing, thrown away with the batch.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "binding_table.hpp"
#include "hash.hpp"

namespace lw {

class BindingTable::Seen {
 public:
  explicit Seen(std::size_t keys) { forget(keys); }

  // Room for other keys. None is taken for 0 or 1: they cannot come twice, and single changes are most of what a
  // running table sees.
  void forget(std::size_t keys) { cells_.assign(keys > 1 ? std::bit_ceil(keys * 2) : 0, 0); }

  // False when it was there before. Key 0 would be address 0.0.0.0, which is never bound.
  bool insert(std::uint64_t key) {
    if (cells_.empty()) return true;
    for (std::size_t at = start(key);; at = (at + 1) & (cells_.size() - 1)) {
      if (cells_[at] == key) return false;
      if (cells_[at] != 0) continue;
      cells_[at] = key;
      return true;
    }
  }

 private:
  std::size_t start(std::uint64_t key) const { return hash::mix(key, 1) & (cells_.size() - 1); }

  std::vector<std::uint64_t> cells_;
};

}  // namespace lw
