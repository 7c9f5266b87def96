// Bindings that come and go while the others stay: numbers below `stable` are always there, of twice `churn` more half
// are, and they change places in scattered order.
#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

#include "bench_fleet.hpp"

namespace lw::bench {

class Ring {
 public:
  explicit Ring(std::uint32_t bindings) : churn_(bindings / 8), stable_(bindings - churn_), size_(2 * churn_) {
    if (size_ == 0) return;
    stride_ = std::uint64_t{size_} * 618 / 1000 | 1;
    while (std::gcd(stride_, std::uint64_t{size_}) != 1) ++stride_;
  }

  std::uint32_t stable() const { return stable_; }
  std::uint32_t churn() const { return churn_; }
  // Of all that may ever be there.
  std::uint32_t numbers() const { return stable_ + size_; }
  // `place` 0 is the one that goes next, churn() the one that comes next.
  std::uint32_t number(std::uint32_t place) const {
    return stable_ + static_cast<std::uint32_t>((std::uint64_t{first_} + place) % size_ * stride_ % size_);
  }
  void turn(std::uint32_t steps) { first_ = (first_ + steps) % size_; }

  std::vector<BindingRow> rows(std::uint32_t variant = 0) const {
    std::vector<BindingRow> all;
    all.reserve(stable_ + churn_);
    for (std::uint32_t i = 0; i < stable_; ++i) all.push_back(fleet::row(i, variant));
    for (std::uint32_t i = 0; i < churn_; ++i) all.push_back(fleet::row(number(i), variant));
    return all;
  }

 private:
  std::uint32_t churn_;
  std::uint32_t stable_;
  std::uint32_t size_;
  std::uint64_t stride_{1};  // no common divisor with size_
  std::uint32_t first_{};
};

}  // namespace lw::bench
