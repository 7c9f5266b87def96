// Header rules for every IPv4 packet, received or found in a softwire (RFC 1812 section 5.2.2, RFC 7126).
#include "checksum.hpp"
#include "stage.hpp"

namespace lw {

namespace {

// With UNKNOWN (0) nothing was said, and BAD is looked at again: the drop is ours to answer for. Of a tunnel that the
// port has recognised the verdict is about what is inside. NONE: the sender on this host left the checksum open.
[[gnu::noinline]] bool vouched(rte_mbuf* frame, std::uint8_t* ip, std::uint16_t header) {
  if ((frame->packet_type & RTE_PTYPE_TUNNEL_MASK) != 0) return false;
  const std::uint64_t verdict = frame->ol_flags & RTE_MBUF_F_RX_IP_CKSUM_MASK;
  if (verdict == RTE_MBUF_F_RX_IP_CKSUM_NONE) {
    store16(ip + ipv4::kChecksum, 0);
    store(ip + ipv4::kChecksum, checksum::field(checksum::sum(ip, header)));
    return true;
  }
  return verdict == RTE_MBUF_F_RX_IP_CKSUM_GOOD;
}

}  // namespace

Counter check_ipv4(rte_mbuf* frame, std::uint16_t offset) {
  const std::uint32_t there = packet::length(frame) - offset;
  const std::uint32_t readable = packet::window(frame) - offset;
  if (readable < ipv4::kHeader) return Counter::drop_v4_malformed;
  std::uint8_t* ip = packet::data(frame, offset);
  const std::uint16_t header = ipv4::header_length(ip);
  if (ip[0] >> 4 != 4 || header < ipv4::kHeader || readable < header) return Counter::drop_v4_malformed;
  const bool told = offset == 0 && (frame->ol_flags & RTE_MBUF_F_RX_IP_CKSUM_MASK) != 0;
  if (!told || !vouched(frame, ip, header)) [[likely]] {
    const bool good = header == ipv4::kHeader ? checksum::good_ipv4_20(ip) : checksum::good(checksum::sum(ip, header));
    if (!good) return Counter::drop_v4_bad_checksum;
  }
  const std::uint16_t total = ipv4::total_length(ip);
  if (total < header) return Counter::drop_v4_malformed;
  if (total > there) return Counter::drop_v4_truncated;
  return Counter::count_;
}

void leave_checksum(const Context& ctx, rte_mbuf* frame) {
  std::uint8_t* ip = packet::data(frame);
  const std::uint16_t header = ipv4::header_length(ip);
  store16(ip + ipv4::kChecksum, 0);
  if (!ctx.offloads[static_cast<unsigned>(SideId::v4)].ipv4_checksum) {
    store(ip + ipv4::kChecksum, checksum::field(checksum::sum(ip, header)));
    return;
  }
  frame->ol_flags |= RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_IP_CKSUM;
  frame->l2_len = ether::kHeader + (ctx.settings.v4.vlan ? ether::kTag : 0U);
  frame->l3_len = header;
}

void write_left_checksum(rte_mbuf* frame) {
  if ((frame->ol_flags & RTE_MBUF_F_TX_IP_CKSUM) == 0) return;
  frame->ol_flags &= ~(RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_IP_CKSUM);
  std::uint8_t* ip = packet::data(frame);
  store(ip + ipv4::kChecksum, checksum::field(checksum::sum(ip, ipv4::header_length(ip))));
}

void take_ipv4(const Item& item) {
  packet::pull(item.frame, item.inner);
  packet::cut(item.frame, ipv4::total_length(packet::data(item.frame)));
}

namespace {
// Option types, RFC 791 and RFC 2113.
constexpr std::uint8_t kEnd = 0, kNoOperation = 1, kRecordRoute = 7, kTimestamp = 68, kLooseRoute = 131,
                       kStrictRoute = 137, kRouterAlert = 148;

bool option_forbidden(const OptionPolicy& policy, std::uint8_t type) {
  switch (type) {
    case kLooseRoute:
    case kStrictRoute:
      return policy.source_route;
    case kRecordRoute:
      return policy.record_route;
    case kTimestamp:
      return policy.timestamp;
    case kRouterAlert:
      return policy.router_alert;
    default:
      return false;
  }
}
}  // namespace

Counter check_ipv4_options(const Settings& settings, const std::uint8_t* ip) {
  const std::uint16_t end = ipv4::header_length(ip);
  for (std::uint16_t at = ipv4::kHeader; at < end;) {
    const std::uint8_t type = ip[at];
    if (type == kEnd) break;
    if (type == kNoOperation) {
      ++at;
      continue;
    }
    if (at + 1 >= end || ip[at + 1] < 2 || at + ip[at + 1] > end) return Counter::drop_v4_malformed;
    if (option_forbidden(settings.options, type)) return Counter::drop_v4_option_policy;
    at = static_cast<std::uint16_t>(at + ip[at + 1]);
  }
  return Counter::count_;
}

// 0/8, 127/8, multicast, class E and broadcast are all that these two refuse (spec 4.13).
bool martian_source(Ipv4 address) {
  const std::uint32_t first = address >> 24;
  return first == 0 || first == 127 || first >= 224;
}
bool martian_destination(Ipv4 address) { return martian_source(address); }

void rewrite_ttl_tos(std::uint8_t* ip, std::uint8_t ttl, std::uint8_t tos) {
  auto check = load<std::uint16_t>(ip + ipv4::kChecksum);
  const auto old_ttl = load<std::uint16_t>(ip + ipv4::kTtl);
  ip[ipv4::kTtl] = ttl;
  check = checksum::update(check, old_ttl, load<std::uint16_t>(ip + ipv4::kTtl));
  if (ip[ipv4::kTos] != tos) {
    const auto old_tos = load<std::uint16_t>(ip);
    ip[ipv4::kTos] = tos;
    check = checksum::update(check, old_tos, load<std::uint16_t>(ip));
  }
  store(ip + ipv4::kChecksum, check);
}

bool is_own_ipv4(const Settings& settings, Ipv4 address) {
  for (const Address4& own : settings.v4_addresses) {
    if (own.address == address) return true;
  }
  return false;
}

}  // namespace lw
