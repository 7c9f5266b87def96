// What an IPv4 address is to the table, in one octet: nothing, a whole address, or shared under (a, k).
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "port_set.hpp"

namespace lw {

enum class AddressUse : std::uint8_t { none, whole, shared };

class AddressClass {
 public:
  constexpr AddressClass() = default;
  static constexpr AddressClass from_code(std::uint8_t code) { return AddressClass{code}; }
  // Parameters that are valid(). k = 0 ignores a: all whole addresses are one class.
  static constexpr AddressClass from(PortSetParams params);

  constexpr std::uint8_t code() const { return code_; }
  constexpr AddressUse use() const;
  constexpr PortSetParams params() const;
  // Empty for a port that belongs to nobody, and for every port of an unused address. 0 for a whole address.
  constexpr std::optional<std::uint16_t> psid(std::uint16_t port) const;
  constexpr std::int32_t psid_or_none(std::uint32_t port) const;  // the same for the fast path; none is -1
  constexpr bool operator==(const AddressClass&) const = default;

 private:
  explicit constexpr AddressClass(std::uint8_t code) : code_(code) {}

  std::uint8_t code_{};
};

namespace detail {

struct ClassRow {  // eight octets: found without a multiplication
  std::uint32_t first_port{0x10000};
  std::uint16_t mask{};
  std::uint8_t shift{};
  AddressUse use{AddressUse::none};
};
struct ClassTable {
  std::array<ClassRow, 256> rows{};                     // by code; 0 = none, 1 = whole
  std::array<PortSetParams, 256> params{};              // likewise
  std::array<std::array<std::uint8_t, 17>, 17> code{};  // by k, a
  unsigned count{1};
};

constexpr ClassTable make_class_table() {
  ClassTable table;
  for (std::uint8_t k = 0; k <= 16; ++k) {
    for (std::uint8_t a = 0; a + k <= 16; ++a) {
      if (k == 0 && a > 0) {
        table.code[0][a] = table.code[0][0];
        continue;
      }
      const PortSetParams params{.offset = a, .length = k};
      table.code[k][a] = static_cast<std::uint8_t>(table.count);
      table.params[table.count] = params;
      table.rows[table.count++] = {.first_port = params.first_port(),
                                   .mask = static_cast<std::uint16_t>(params.sets() - 1),
                                   .shift = static_cast<std::uint8_t>(params.contiguous_bits()),
                                   .use = k == 0 ? AddressUse::whole : AddressUse::shared};
    }
  }
  return table;
}
inline constexpr ClassTable kClasses = make_class_table();
static_assert(kClasses.count == 138);

}  // namespace detail

constexpr AddressClass AddressClass::from(PortSetParams params) {
  return AddressClass{detail::kClasses.code[params.length][params.offset]};
}
constexpr AddressUse AddressClass::use() const { return detail::kClasses.rows[code_].use; }
constexpr PortSetParams AddressClass::params() const { return detail::kClasses.params[code_]; }
constexpr std::int32_t AddressClass::psid_or_none(std::uint32_t port) const {
  const detail::ClassRow& row = detail::kClasses.rows[code_];
  if (port < row.first_port) return -1;
  return static_cast<std::int32_t>(port >> row.shift & row.mask);
}
constexpr std::optional<std::uint16_t> AddressClass::psid(std::uint16_t port) const {
  const std::int32_t found = psid_or_none(port);
  return found < 0 ? std::nullopt : std::optional(static_cast<std::uint16_t>(found));
}

}  // namespace lw
