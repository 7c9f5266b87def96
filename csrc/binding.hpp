// The rows that cross between the control side and the table.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace lw {

// Who put a binding into the table; a smaller value wins over a larger one.
enum class Source : std::uint8_t { config = 0, operator_ = 1, dhcp = 2, pcp = 3 };
constexpr std::size_t kSources = 4;
// Stands for a source where there is no binding.
inline constexpr std::uint8_t kNoSource = 255;

// One softwire binding (RFC 7596 section 6.1). Exported to Python as a numpy dtype, so: plain and without gaps.
struct BindingRow {
  std::uint32_t ipv4;  // host order
  std::uint16_t psid;
  std::uint8_t psid_len;     // k; 0 = whole address, psid and psid_offset are ignored
  std::uint8_t psid_offset;  // a
  std::array<std::uint8_t, 16> b4;
  std::array<std::uint8_t, 16> br;
};
static_assert(sizeof(BindingRow) == 40);
static_assert(std::is_trivially_copyable_v<BindingRow> && std::is_standard_layout_v<BindingRow>);
static_assert(offsetof(BindingRow, b4) == 8 && offsetof(BindingRow, br) == 24);

}  // namespace lw
