// Anonymous memory straight from the kernel: zeroed, and costing nothing until it is touched.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <utility>

namespace lw {

class Pages {
 public:
  // dense: will be touched all over at random, so 2 MB pages are asked for (a look-up in 60M bindings costs 336 cycles
  // on 4 KB pages and 89 on 2 MB ones). sparse: mostly never touched, and 2 MB a touch would be wasted.
  enum class Use { dense, sparse };

  Pages() = default;
  Pages(std::size_t octets, Use use) : octets_(octets) {
    const std::size_t slack = use == Use::dense ? kHuge : 0;
    mapped_ = octets + slack;
    mapping_ = ::mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping_ == MAP_FAILED) {
      mapping_ = nullptr;
      throw std::bad_alloc();
    }
    start_ = mapping_;
    if (use == Use::sparse) return;
    start_ = reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(mapping_) + kHuge - 1) & ~(kHuge - 1));
    // Advice only: without transparent huge pages the table works, slower.
    if (octets >= kHuge) (void)::madvise(start_, octets, MADV_HUGEPAGE);
  }
  ~Pages() {
    if (mapping_ != nullptr) ::munmap(mapping_, mapped_);
  }
  Pages(Pages&& other) noexcept
      : mapping_(std::exchange(other.mapping_, nullptr)),
        start_(other.start_),
        mapped_(other.mapped_),
        octets_(other.octets_) {}
  Pages& operator=(Pages&& other) noexcept {
    std::swap(mapping_, other.mapping_);
    std::swap(start_, other.start_);
    std::swap(mapped_, other.mapped_);
    std::swap(octets_, other.octets_);
    return *this;
  }

  // Zero octets are a valid object of every type that is kept here (integers and aggregates of them), and the kernel
  // hands out zero octets, as calloc does.
  template <class T>
  T* as() const {
    return static_cast<T*>(start_);
  }
  std::size_t octets() const { return octets_; }
  std::span<std::byte> range() const { return {as<std::byte>(), octets_}; }

 private:
  static constexpr std::uintptr_t kHuge = 2U << 20;

  void* mapping_{};
  void* start_{};
  std::size_t mapped_{};
  std::size_t octets_{};
};

}  // namespace lw
