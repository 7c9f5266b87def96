// The bindings of the games that writers and readers play on a table (table_stress.cpp, batch_game.hpp): all that is in
// one follows from its number and a serial that only grows.
#pragma once

#include <cstdint>
#include <cstring>

#include "binding_table.hpp"

namespace game_rows {

constexpr std::uint32_t kFirstAddress = 0x0a000000;
constexpr unsigned kK = 4;  // 16 bindings an address
constexpr unsigned kBrs = 5;

inline lw::BindingKey shared_key(std::uint32_t n) {
  return {kFirstAddress + (n >> kK), static_cast<std::uint16_t>(n % (1U << kK))};
}

inline lw::Softwire softwire(std::size_t i, std::uint64_t serial) {
  return {{(i + 1) * 0x9e3779b97f4a7c15 << 8 | 0x20, serial}, {0x0120, serial % kBrs + 1}};
}

inline lw::BindingRow row(lw::BindingKey key, bool whole, const lw::Softwire& to) {
  lw::BindingRow row{.ipv4 = key.ipv4, .psid = key.psid, .psid_len = kK, .psid_offset = 6, .b4 = {}, .br = {}};
  if (whole) row.psid_len = 0;
  std::memcpy(row.b4.data(), &to.b4, sizeof to.b4);
  std::memcpy(row.br.data(), &to.br, sizeof to.br);
  return row;
}

}  // namespace game_rows
