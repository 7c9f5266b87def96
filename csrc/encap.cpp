// RFC 7596 section 6.2: a packet for a served address and port leaves inside IPv6 to its B4.
#include "checksum.hpp"
#include "stage.hpp"

namespace lw {

namespace {

std::uint8_t outer_class(const Settings& settings, std::uint8_t tos) {
  const std::uint8_t dscp = settings.dscp == DscpMode::pipe ? static_cast<std::uint8_t>(settings.pipe_dscp << 2)
                                                            : static_cast<std::uint8_t>(tos & 0xfc);
  // RFC 6040 section 4.1: normal mode copies, compatibility mode writes Not-ECT.
  return settings.ecn == EcnMode::normal ? static_cast<std::uint8_t>(dscp | (tos & 3)) : dscp;
}

// Fragments have no ports: addresses only.
std::uint32_t flow_label(const Context& ctx, const std::uint8_t* ip, std::uint32_t readable) {
  if (ctx.settings.flow_label_mode == FlowLabelMode::fixed) return ctx.settings.flow_label;
  const std::uint16_t header = ipv4::header_length(ip);
  std::uint64_t third = load<std::uint32_t>(ip + ipv4::kDestination);
  if (proto::has_ports(ip[ipv4::kProtocol]) && !ipv4::is_fragment(ip) && readable >= header + 4U) {
    third |= std::uint64_t{load<std::uint32_t>(ip + header)} << 32;
  }
  return flow_label_of(ctx.shared.secret, load<std::uint64_t>(ip + ipv4::kTtl), third);
}

}  // namespace

std::uint16_t tunnel_overhead(const Settings& settings) {
  return static_cast<std::uint16_t>(ipv6::kHeader + (settings.encap_limit ? sizeof(limit_option(0)) : 0));
}

std::uint16_t configured_path_mtu(const Settings& settings) {
  std::uint32_t mtu = settings.v6.mtu;
  if (settings.tunnel_payload_mtu != 0) {
    // Spec 4.12: a configured payload MTU stands for a path MTU of payload + overhead.
    mtu = std::min<std::uint32_t>(mtu, settings.tunnel_payload_mtu + std::uint32_t{tunnel_overhead(settings)});
  }
  return static_cast<std::uint16_t>(std::max<std::uint32_t>(mtu, ipv6::kMinimumMtu));
}

std::uint16_t path_mtu(Context& ctx, const Ipv6& b4) {
  const std::uint16_t mtu = configured_path_mtu(ctx.settings);
  if (const std::uint16_t known = ctx.shared.path_mtus.get(b4, ctx.now_ns); known != 0) {
    return std::min(mtu, known);
  }
  return mtu;
}

void wrap(Context& ctx, rte_mbuf* frame, const Softwire& to) {
  const Settings& settings = ctx.settings;
  const std::uint8_t* ip = packet::data(frame);
  const std::uint16_t total = ipv4::total_length(ip);
  const std::uint32_t first = 0x60000000U | std::uint32_t{outer_class(settings, ip[ipv4::kTos])} << 20 |
                              flow_label(ctx, ip, packet::window(frame));
  const std::uint16_t overhead = tunnel_overhead(settings);
  std::uint8_t* outer = packet::push(frame, overhead);
  store32(outer, first);
  store16(outer + ipv6::kPayloadLength, static_cast<std::uint16_t>(total + overhead - ipv6::kHeader));
  outer[ipv6::kNextHeader] = settings.encap_limit ? proto::kDestination : proto::kIpv4;
  outer[ipv6::kHopLimit] = settings.hop_limit;
  store(outer + ipv6::kSource, to.br);
  store(outer + ipv6::kDestination, to.b4);
  if (settings.encap_limit) {
    store(outer + ipv6::kHeader, limit_option(*settings.encap_limit));
  }
}

void into_softwire(Context& ctx, Item& item, const Softwire& to, std::uint8_t tos) {
  std::uint8_t* ip = inner(item);
  const std::uint16_t length = ipv4::total_length(ip);
  const std::uint8_t ttl = ip[ipv4::kTtl];
  if (ttl <= 1) return refuse4(ctx, item, Counter::drop_ttl_expired, kTtlExpired);
  const std::uint32_t outer_length = std::uint32_t{length} + tunnel_overhead(ctx.settings);
  // No path is narrower than 1280 octets: small packets need no look at the path MTU.
  std::uint16_t mtu = ipv6::kMinimumMtu;
  if (outer_length > mtu) {
    mtu = path_mtu(ctx, to.b4);
    if (outer_length > mtu && ipv4::dont_fragment(ip)) {
      return refuse4(ctx, item, Counter::drop_too_big_df,
                     too_big(static_cast<std::uint16_t>(mtu - tunnel_overhead(ctx.settings))));
    }
  }
  const bool hairpinned = from_softwire(item);
  Origin origin;
  ctx.tally.any = false;
  if (hairpinned) {
    origin = {true, softwire_of(item)};
    ctx.tally = {true, Counter::count_, length, item.account, ctx.hairpin_account};
  } else if (ctx.accounts != nullptr) {
    ctx.tally = {true, Counter::count_, length, 0, item.account};
  }
  take_ipv4(item);
  ip = packet::data(item.frame);
  rewrite_ttl_tos(ip, static_cast<std::uint8_t>(ttl - 1), tos);
  if (ctx.settings.tcp_mss != 0) clamp_mss(ctx, ip, packet::window(item.frame));
  wrap(ctx, item.frame, to);
  const Counter edge = hairpinned ? Counter::hairpin : Counter::encap;
  rte_mbuf* frame = item.frame;
  item.frame = nullptr;
  item.passed = true;
  if (outer_length > mtu) {
    split6(ctx, frame, mtu, edge, origin);
  } else {
    forward(ctx, frame, SideId::v6, edge, origin);
  }
}

void encap(Context& ctx, Item& item) {
  const std::uint8_t* ip = inner(item);
  if (item.softwire != nullptr) return into_softwire(ctx, item, *item.softwire, ip[ipv4::kTos]);
  // RFC 7596 section 8.1: ICMP that matches nothing is discarded without an error.
  if (ip[ipv4::kProtocol] == proto::kIcmp) return drop(ctx, item, Counter::drop_icmp_no_binding);
  if (!ctx.settings.icmp_unbound_v4) return drop(ctx, item, Counter::drop_no_binding);
  refuse4(ctx, item, Counter::drop_no_binding, kHostUnreachable);
}

}  // namespace lw
