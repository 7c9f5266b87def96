// Errors that the router makes. The refused packet's own buffer becomes the error: it is the quote already.
#include "checksum.hpp"
#include "stage.hpp"

namespace lw {

namespace {

constexpr std::uint16_t kIcmp4Datagram = 576;  // RFC 1812 section 4.3.2.3

// RFC 1812 section 4.3.2.7: never about these.
bool may_tell(const std::uint8_t* ip, std::uint32_t readable) {
  const std::uint16_t header = ipv4::header_length(ip);
  if (martian_source(ipv4::source(ip)) || softwire_only(ipv4::source(ip))) return false;
  if (ipv4::is_later_fragment(ip) || ipv4::destination(ip) >> 28 >= 0xe) return false;
  return ip[ipv4::kProtocol] != proto::kIcmp || (readable > header && !icmp4::is_error(ip[header]));
}

bool within_rate(Context& ctx, TokenBucket& all, SourceBuckets& sources, std::uint64_t source) {
  const Rate per_source{ctx.settings.icmp_per_source, ctx.settings.icmp_rate.period_ns};
  // The source's own share first: a flood from one does not eat what is everybody's.
  return sources.take(hash::mix(source, ctx.shared.secret), per_source, ctx.now_ns) &&
         all.take(ctx.settings.icmp_rate, ctx.now_ns);
}

}  // namespace

void build_ipv4_icmp(const Context& ctx, rte_mbuf* frame, std::uint8_t tos, Ipv4 source, Ipv4 destination,
                     SideId leaves_by) {
  std::uint8_t* ip = packet::push(frame, ipv4::kHeader);
  ip[0] = 0x45;
  ip[ipv4::kTos] = tos;
  store16(ip + ipv4::kTotalLength, static_cast<std::uint16_t>(packet::length(frame)));
  store16(ip + ipv4::kId, 0);  // an atomic datagram may have any identification, RFC 6864 section 4.1
  store16(ip + ipv4::kFragment, ipv4::kDontFragment);
  ip[ipv4::kTtl] = kOwnTtl;
  ip[ipv4::kProtocol] = proto::kIcmp;
  store16(ip + ipv4::kChecksum, 0);
  store32(ip + ipv4::kSource, source);
  store32(ip + ipv4::kDestination, destination);
  if (leaves_by == SideId::v4) return leave_checksum(ctx, frame);
  store(ip + ipv4::kChecksum, checksum::field(checksum::sum(ip, ipv4::kHeader)));
}

bool send_icmp4_error(Context& ctx, rte_mbuf* frame, const Icmp4Error& error, const Softwire* via) {
  const std::uint8_t* ip = packet::data(frame);
  if (!may_tell(ip, packet::window(frame))) return false;
  const Ipv4 destination = ipv4::source(ip);
  const std::uint64_t source = via != nullptr ? hash::subscriber(via->b4, ctx.settings.subscriber_mask) : destination;
  if (!within_rate(ctx, ctx.shared.icmp4_errors, ctx.shared.icmp4_sources, source)) {
    ctx.count(Counter::icmp4_suppressed);
    return false;
  }
  const std::uint8_t tos = ctx.settings.icmp_error_tos.value_or(static_cast<std::uint8_t>(ip[ipv4::kTos] & 0xfc));
  write_left_checksum(frame);  // of a fragment that has waited for a next hop in vain
  packet::cut(frame, kIcmp4Datagram - ipv4::kHeader - icmp4::kHeader);
  std::uint8_t* icmp = packet::push(frame, icmp4::kHeader);
  icmp[0] = error.type;
  icmp[1] = error.code;
  store16(icmp + 2, 0);
  store16(icmp + 4, 0);
  store16(icmp + 6, error.mtu);
  store(icmp + 2, checksum::field(checksum::sum(frame, 0, packet::length(frame))));
  const Ipv4 from = via != nullptr ? kAftrIpv4 : ctx.settings.v4_addresses.front().address;
  const SideId side = via != nullptr ? SideId::v6 : SideId::v4;
  build_ipv4_icmp(ctx, frame, tos, from, destination, side);
  if (via != nullptr) wrap(ctx, frame, *via);
  send_made(ctx, frame, side, error.sent);
  return true;
}

void refuse4(Context& ctx, Item& item, Counter reason, const Icmp4Error& error) {
  const bool inside = from_softwire(item);
  const Softwire via = inside ? softwire_of(item) : Softwire{};
  if (item.group_link) return drop(ctx, item, reason);
  take_ipv4(item);
  if (!send_icmp4_error(ctx, item.frame, error, inside ? &via : nullptr)) return drop(ctx, item, reason);
  ctx.end(reason);
  item.frame = nullptr;
}

bool send_icmp6_error(Context& ctx, rte_mbuf* frame, const Icmp6Error& error, bool group_link) {
  const std::uint8_t* ip = packet::data(frame);
  const Ipv6 to = ipv6::source(ip), from = ipv6::destination(ip);
  // RFC 4443 section 2.4(e); what came is never an ICMPv6 error here: those do not get this far.
  if (group_link || to.is_multicast() || to.is_unspecified() || from.is_multicast()) return false;
  const std::uint64_t subscriber = hash::subscriber(to, ctx.settings.subscriber_mask);
  if (!within_rate(ctx, ctx.shared.icmp6_errors, ctx.shared.icmp6_sources, subscriber)) {
    ctx.count(Counter::icmp6_suppressed);
    return false;
  }
  packet::cut(frame, ipv6::kMinimumMtu - ipv6::kHeader - icmp6::kHeader);
  std::uint8_t* icmp = packet::push(frame, icmp6::kHeader);
  icmp[0] = error.type;
  icmp[1] = error.code;
  store16(icmp + 2, 0);
  store32(icmp + 4, error.value);
  const bool no_binding = error.type == icmp6::kUnreachable && error.code == 5;
  build_ipv6_icmp(frame, from, to, kOwnTtl);
  send_made(ctx, frame, SideId::v6, no_binding ? Counter::icmp6_sent_no_binding : Counter::icmp6_sent_other);
  return true;
}

void build_ipv6_icmp(rte_mbuf* frame, const Ipv6& from, const Ipv6& to, std::uint8_t hop_limit) {
  const std::uint32_t length = packet::length(frame);
  std::uint8_t* ip = packet::push(frame, ipv6::kHeader);
  store32(ip, 0x60000000U);
  store16(ip + ipv6::kPayloadLength, static_cast<std::uint16_t>(length));
  ip[ipv6::kNextHeader] = proto::kIcmp6;
  ip[ipv6::kHopLimit] = hop_limit;
  store(ip + ipv6::kSource, from);
  store(ip + ipv6::kDestination, to);
  store16(ip + ipv6::kHeader + 2, 0);
  const std::uint64_t pseudo = checksum::pseudo6(ip + ipv6::kSource, length, proto::kIcmp6);
  store(ip + ipv6::kHeader + 2, checksum::field(checksum::sum(frame, ipv6::kHeader, length, pseudo)));
}

void refuse6(Context& ctx, Item& item, Counter reason, const Icmp6Error& error) {
  if (!send_icmp6_error(ctx, item.frame, error, item.group_link)) return drop(ctx, item, reason);
  ctx.end(reason);
  item.frame = nullptr;
}

}  // namespace lw
