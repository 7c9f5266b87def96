// Makes mutated frames whole again: checksums and, if asked for, lengths. Without it nearly every mutation ends at the
// first checksum and nothing behind it is ever reached.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "checksum.hpp"
#include "headers.hpp"

namespace fix {

using Octets = std::span<std::uint8_t>;

inline void header4(Octets ip) {
  const std::size_t header = lw::ipv4::header_length(ip.data());
  if (header < lw::ipv4::kHeader || header > ip.size()) return;
  lw::store16(&ip[lw::ipv4::kChecksum], 0);
  lw::store(&ip[lw::ipv4::kChecksum], lw::checksum::field(lw::checksum::sum(ip.data(), header)));
}

// A quoted packet is cut off: only its header can be right.
inline void ipv4(Octets ip, bool lengths, bool quoted = false) {
  if (ip.size() < lw::ipv4::kHeader) return;
  const std::size_t header = lw::ipv4::header_length(ip.data());
  if (header < lw::ipv4::kHeader || header > ip.size()) return;
  if (lengths && !quoted) lw::store16(&ip[lw::ipv4::kTotalLength], static_cast<std::uint16_t>(ip.size()));
  header4(ip);
  const std::size_t total = std::min<std::size_t>(lw::ipv4::total_length(ip.data()), ip.size());
  if (quoted || ip[lw::ipv4::kProtocol] != lw::proto::kIcmp || lw::ipv4::is_fragment(ip.data())) return;
  if (total < header + lw::icmp4::kHeader) return;
  const Octets icmp = ip.subspan(header, total - header);
  if (lw::icmp4::is_error(icmp[0])) ipv4(icmp.subspan(lw::icmp4::kHeader), false, true);
  lw::store16(&icmp[2], 0);
  lw::store(&icmp[2], lw::checksum::field(lw::checksum::sum(icmp.data(), static_cast<std::uint32_t>(icmp.size()))));
}

inline void ipv6(Octets ip, bool lengths, bool quoted = false) {
  if (ip.size() < lw::ipv6::kHeader) return;
  if (lengths && !quoted) {
    lw::store16(&ip[lw::ipv6::kPayloadLength], static_cast<std::uint16_t>(ip.size() - lw::ipv6::kHeader));
  }
  const std::size_t total = lw::ipv6::kHeader + std::size_t{lw::ipv6::payload_length(ip.data())};
  ip = ip.first(std::min(ip.size(), total));
  std::uint8_t next = ip[lw::ipv6::kNextHeader];
  std::size_t at = lw::ipv6::kHeader;
  while ((next == lw::proto::kHopByHop || next == lw::proto::kRouting || next == lw::proto::kDestination ||
          next == lw::proto::kFragment) &&
         at + 8 < ip.size()) {
    const bool fragment = next == lw::proto::kFragment;
    if (fragment && (lw::load16(&ip[at + 2]) & 0xfff8) != 0) return;
    next = ip[at];
    at += fragment ? 8 : 8 * (ip[at + 1] + std::size_t{1});
  }
  if (at >= ip.size()) return;
  const Octets payload = ip.subspan(at);
  if (next == lw::proto::kIpv4) return ipv4(payload, lengths, quoted);
  if (next != lw::proto::kIcmp6 || quoted || payload.size() < lw::icmp6::kHeader) return;
  if (payload[0] < 128) ipv6(payload.subspan(lw::icmp6::kHeader), false, true);
  const auto n = static_cast<std::uint32_t>(payload.size());
  lw::store16(&payload[2], 0);
  const std::uint64_t pseudo = lw::checksum::pseudo6(&ip[lw::ipv6::kSource], n, lw::proto::kIcmp6);
  lw::store(&payload[2], lw::checksum::field(lw::checksum::sum(payload.data(), n, pseudo)));
}

inline void frame(Octets octets, bool lengths) {
  std::size_t header = lw::ether::kHeader;
  if (octets.size() < header) return;
  std::uint16_t type = lw::load16(&octets[12]);
  if (type == lw::ether::kVlan && octets.size() >= header + lw::ether::kTag) {
    type = lw::load16(&octets[16]);
    header += lw::ether::kTag;
  }
  if (type == lw::ether::kIpv4) ipv4(octets.subspan(header), lengths);
  if (type == lw::ether::kIpv6) ipv6(octets.subspan(header), lengths);
}

}  // namespace fix
