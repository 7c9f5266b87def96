// TCP MSS clamp: lowers the maximum segment size of a SYN, in both directions.
#include "checksum.hpp"
#include "stage.hpp"

namespace lw {

namespace {
constexpr std::uint32_t kTcpHeader = 20;
constexpr std::uint8_t kSyn = 0x02;
constexpr std::uint8_t kEnd = 0, kNoOperation = 1, kMaximumSegmentSize = 2;

// The option's value, or null. A SYN whose options are not in order is left alone.
std::uint8_t* find_mss(std::uint8_t* tcp, std::uint32_t header) {
  for (std::uint32_t at = kTcpHeader; at < header;) {
    if (tcp[at] == kEnd) return nullptr;
    if (tcp[at] == kNoOperation) {
      ++at;
      continue;
    }
    if (at + 1 >= header || tcp[at + 1] < 2 || at + tcp[at + 1] > header) return nullptr;
    if (tcp[at] == kMaximumSegmentSize && tcp[at + 1] == 4) return tcp + at + 2;
    at += tcp[at + 1];
  }
  return nullptr;
}

// RFC 1624 for a word that may lie at an odd octet: then its halves count swapped.
void mend(std::uint8_t* check_field, bool odd, std::uint16_t before, std::uint16_t after) {
  const auto check = load<std::uint16_t>(check_field);
  store(check_field,
        odd ? checksum::update(check, byte_swap(before), byte_swap(after)) : checksum::update(check, before, after));
}
}  // namespace

void clamp_mss(Context& ctx, std::uint8_t* ip, std::uint32_t readable) {
  if (ip[ipv4::kProtocol] != proto::kTcp || ipv4::is_later_fragment(ip)) return;
  const std::uint16_t ip_header = ipv4::header_length(ip);
  if (readable < ip_header + kTcpHeader) return;
  std::uint8_t* tcp = ip + ip_header;
  if ((tcp[13] & kSyn) == 0) return;
  const std::uint32_t header = (tcp[12] >> 4) * 4U;
  if (header < kTcpHeader || readable < ip_header + header) return;
  std::uint8_t* value = find_mss(tcp, header);
  if (value == nullptr || load16(value) <= ctx.settings.tcp_mss) return;
  const auto before = load<std::uint16_t>(value);
  store16(value, ctx.settings.tcp_mss);
  mend(tcp + 16, ((value - tcp) & 1) != 0, before, load<std::uint16_t>(value));
  ctx.count(Counter::mss_clamped);
}

}  // namespace lw
