// Where things lie in the headers we read and write, and the numbers of the protocols.
#pragma once

#include <cstdint>

#include "types.hpp"

namespace lw {

namespace ether {
inline constexpr std::uint16_t kHeader = 14, kTag = 4;
inline constexpr std::uint16_t kIpv4 = 0x0800, kArp = 0x0806, kVlan = 0x8100, kIpv6 = 0x86dd;
inline constexpr std::uint16_t kVidMask = 0x0fff;
}  // namespace ether

namespace proto {
inline constexpr std::uint8_t kIcmp = 1, kIpv4 = 4, kTcp = 6, kUdp = 17, kDccp = 33, kSctp = 132, kUdpLite = 136;
inline constexpr std::uint8_t kHopByHop = 0, kRouting = 43, kFragment = 44, kIcmp6 = 58, kNone = 59, kDestination = 60;
// Those whose first four octets are source and destination port (spec 4.2).
constexpr bool has_ports(std::uint8_t protocol) {
  return protocol == kTcp || protocol == kUdp || protocol == kDccp || protocol == kSctp || protocol == kUdpLite;
}
}  // namespace proto

namespace ipv4 {
inline constexpr std::uint16_t kHeader = 20;
inline constexpr unsigned kTos = 1, kTotalLength = 2, kId = 4, kFragment = 6, kTtl = 8, kProtocol = 9, kChecksum = 10,
                          kSource = 12, kDestination = 16;
inline constexpr std::uint16_t kDontFragment = 0x4000, kMoreFragments = 0x2000, kOffsetMask = 0x1fff;
inline std::uint16_t header_length(const std::uint8_t* ip) { return static_cast<std::uint16_t>((ip[0] & 0x0f) * 4); }
inline std::uint16_t total_length(const std::uint8_t* ip) { return load16(ip + kTotalLength); }
inline std::uint16_t fragment_field(const std::uint8_t* ip) { return load16(ip + kFragment); }
inline bool is_fragment(const std::uint8_t* ip) { return (fragment_field(ip) & (kMoreFragments | kOffsetMask)) != 0; }
inline bool is_later_fragment(const std::uint8_t* ip) { return (fragment_field(ip) & kOffsetMask) != 0; }
inline bool dont_fragment(const std::uint8_t* ip) { return (fragment_field(ip) & kDontFragment) != 0; }
inline Ipv4 source(const std::uint8_t* ip) { return load32(ip + kSource); }
inline Ipv4 destination(const std::uint8_t* ip) { return load32(ip + kDestination); }
}  // namespace ipv4

namespace ipv6 {
inline constexpr std::uint16_t kHeader = 40, kFragmentHeader = 8, kMinimumMtu = 1280;
inline constexpr unsigned kPayloadLength = 4, kNextHeader = 6, kHopLimit = 7, kSource = 8, kDestination = 24;
inline std::uint16_t payload_length(const std::uint8_t* ip) { return load16(ip + kPayloadLength); }
inline std::uint8_t traffic_class(const std::uint8_t* ip) { return static_cast<std::uint8_t>(load16(ip) >> 4); }
inline Ipv6 source(const std::uint8_t* ip) { return load<Ipv6>(ip + kSource); }
inline Ipv6 destination(const std::uint8_t* ip) { return load<Ipv6>(ip + kDestination); }
inline constexpr Ipv6 kAllNodes{Be<std::uint64_t>{0xff02000000000000}.raw(), Be<std::uint64_t>{1}.raw()};
// ff02::1:ffXX:XXXX (RFC 4291 section 2.7.1)
inline Ipv6 solicited_node(const Ipv6& address) {
  const std::uint64_t last24 = Be<std::uint64_t>::from_raw(address.low).host() & 0xffffff;
  return {Be<std::uint64_t>{0xff02000000000000}.raw(), Be<std::uint64_t>{0x1ff000000 | last24}.raw()};
}
}  // namespace ipv6

namespace icmp4 {
inline constexpr std::uint16_t kHeader = 8;
inline constexpr std::uint8_t kEchoReply = 0, kUnreachable = 3, kQuench = 4, kRedirect = 5, kEchoRequest = 8,
                              kTimeExceeded = 11, kParameterProblem = 12;
inline constexpr std::uint8_t kHostUnreachable = 1, kTooBig = 4;
constexpr bool is_error(std::uint8_t type) {
  return type == kUnreachable || type == kQuench || type == kRedirect || type == kTimeExceeded ||
         type == kParameterProblem;
}
constexpr bool is_echo(std::uint8_t type) { return type == kEchoReply || type == kEchoRequest; }
}  // namespace icmp4

namespace icmp6 {
inline constexpr std::uint16_t kHeader = 8;
inline constexpr std::uint8_t kUnreachable = 1, kTooBig = 2, kTimeExceeded = 3, kParameterProblem = 4,
                              kEchoRequest = 128, kEchoReply = 129, kSolicitation = 135, kAdvertisement = 136;
}  // namespace icmp6

}  // namespace lw
