// ICMPv6 that reached an own address: echo, and errors about our own tunnel packets, which become ICMPv4 errors to the
// inner source (RFC 2473 section 8). The quote is the only witness, so it is checked in every way it can be.
#include "checksum.hpp"
#include "stage.hpp"

namespace lw {

namespace {

// Our tunnel packet as quoted.
struct Quote {
  std::uint32_t at{};        // of the quoted IPv6 header in the frame
  std::uint32_t inner{};     // of the IPv4 header, relative to `at`: the length of the tunnel headers
  std::uint32_t limit_at{};  // of the value of an encapsulation-limit option, relative to `at`; 0 = none
  Softwire softwire;
};

// Finds the value octet of an encapsulation-limit option in destination options.
std::uint32_t limit_option(const std::uint8_t* quoted, std::uint32_t begin, std::uint32_t end) {
  for (std::uint32_t at = begin; at + 1 < end;) {
    if (quoted[at] == 0) {
      ++at;
      continue;
    }
    if (quoted[at] == 4 && quoted[at + 1] == 1 && at + 2 < end) return at + 2;
    at += 2U + quoted[at + 1];
  }
  return 0;
}

bool walk_quote(const std::uint8_t* quoted, std::uint32_t readable, Quote& quote) {
  std::uint8_t next = quoted[ipv6::kNextHeader];
  std::uint32_t at = ipv6::kHeader;
  while (next == proto::kDestination) {
    if (at + 8 > readable) return false;
    const std::uint32_t end = at + 8U * (quoted[at + 1] + 1U);
    if (end > readable) return false;
    if (quote.limit_at == 0) quote.limit_at = limit_option(quoted, at + 2, end);
    next = quoted[at];
    at = end;
  }
  if (next == proto::kFragment) {
    if (at + ipv6::kFragmentHeader > readable || (load16(quoted + at + 2) & 0xfff8) != 0) return false;
    next = quoted[at];
    at += ipv6::kFragmentHeader;
    while (next ==
           proto::kDestination) {  // behind the fragment header when the limit option was fragmented with the rest
      if (at + 8 > readable || at + 8U * (quoted[at + 1] + 1U) > readable) return false;
      next = quoted[at];
      at += 8U * (quoted[at + 1] + 1U);
    }
  }
  quote.inner = at;
  return next == proto::kIpv4;
}

bool is_icmp_error(const std::uint8_t* ip, std::uint32_t readable) {
  const std::uint16_t header = ipv4::header_length(ip);
  return ip[ipv4::kProtocol] == proto::kIcmp && readable > header && icmp4::is_error(ip[header]);
}

// The port by which the quoted packet found (destination) or was vouched for by (source) its binding.
bool find_quoted(Context& ctx, const std::uint8_t* ip, std::uint32_t readable, bool destination, Softwire& softwire) {
  const Ipv4 address = destination ? ipv4::destination(ip) : ipv4::source(ip);
  const AddressClass row = ctx.table.classify(address);
  if (row.use() == AddressUse::none) return false;
  if (row.use() == AddressUse::whole) return ctx.table.find({address, 0}, softwire);
  const std::uint16_t header = ipv4::header_length(ip);
  const std::uint8_t protocol = ip[ipv4::kProtocol];
  if (ipv4::is_later_fragment(ip)) return false;
  std::uint16_t port = 0;
  if (proto::has_ports(protocol) && readable >= header + 4U) {
    port = load16(ip + header + (destination ? 2 : 0));
  } else if (protocol == proto::kIcmp && readable >= header + 6U && icmp4::is_echo(ip[header])) {
    port = load16(ip + header + 4);
  } else {
    return false;
  }
  const auto psid = row.psid(port);
  return psid && ctx.table.find({address, *psid}, softwire);
}

// Checks the quoted packet (DP-148). True: it is one of ours, about a binding that stands.
bool read_quote(Context& ctx, const Item& item, std::uint16_t offset, Quote& quote) {
  quote.at = offset + std::uint32_t{icmp6::kHeader};
  const std::uint32_t window = packet::window(item.frame);
  if (window < quote.at + ipv6::kHeader + ipv4::kHeader) return false;
  const std::uint8_t* quoted = packet::data(item.frame, quote.at);
  const std::uint32_t readable = window - quote.at;
  bool ours = false;
  for (const Ipv6& br : ctx.settings.br_addresses) ours = ours || br == ipv6::source(quoted);
  if (quoted[0] >> 4 != 6 || !ours || !walk_quote(quoted, readable, quote)) return false;
  if (readable < quote.inner + ipv4::kHeader) return false;
  const std::uint8_t* ip = quoted + quote.inner;
  const std::uint32_t left = readable - quote.inner;
  const std::uint16_t header = ipv4::header_length(ip);
  if (ip[0] >> 4 != 4 || header < ipv4::kHeader || left < header || !checksum::good(checksum::sum(ip, header)))
    return false;
  if (is_icmp_error(ip, left) || !find_quoted(ctx, ip, left, true, quote.softwire)) return false;
  return quote.softwire.b4 == ipv6::destination(quoted) && quote.softwire.br == ipv6::source(quoted);
}

// Sends the ICMPv4 error about the quoted IPv4 packet to its source: outward, or into its softwire if it is a
// subscriber.
void relay(Context& ctx, Item& item, const Quote& quote, Icmp4Error error) {
  error.sent = Counter::icmp4_sent_relayed;
  packet::pull(item.frame, static_cast<std::uint16_t>(quote.at + quote.inner));
  const std::uint8_t* ip = packet::data(item.frame);
  packet::cut(item.frame, ipv4::total_length(ip));
  Softwire via;
  bool sent = false;
  if (ctx.table.classify(ipv4::source(ip)).use() == AddressUse::none) {
    sent = send_icmp4_error(ctx, item.frame, error, nullptr);
  } else if (find_quoted(ctx, ip, packet::window(item.frame), false, via)) {
    sent = send_icmp4_error(ctx, item.frame, error, &via);
  }
  if (!sent) return consume(ctx, item, Counter::consumed_icmp6_error);
  ctx.end(Counter::consumed_icmp6_error);
  item.frame = nullptr;
}

void too_big_received(Context& ctx, Item& item, const Quote& quote, std::uint32_t mtu) {
  if (mtu < ipv6::kMinimumMtu || mtu > 65535) return drop(ctx, item, Counter::drop_icmp6_ignored);  // DP-147
  const auto narrower = static_cast<std::uint16_t>(mtu);
  if (ctx.settings.pmtud && narrower < configured_path_mtu(ctx.settings) &&
      ctx.shared.path_mtus.lower(quote.softwire.b4, narrower, ctx.now_ns)) {
    ctx.count(Counter::pmtu_lowered);
  }
  const bool tell =
      ctx.settings.icmp_incoming_v6 && ipv4::dont_fragment(packet::data(item.frame, quote.at + quote.inner));
  if (!tell) return consume(ctx, item, Counter::consumed_icmp6_error);
  relay(ctx, item, quote, too_big(static_cast<std::uint16_t>(mtu - quote.inner)));
}

void error_received(Context& ctx, Item& item, std::uint16_t offset) {
  Quote quote;
  if (!read_quote(ctx, item, offset, quote)) return drop(ctx, item, Counter::drop_icmp6_ignored);
  const std::uint8_t* icmp = packet::data(item.frame, offset);
  const std::uint8_t type = icmp[0], code = icmp[1];
  const std::uint32_t value = load32(icmp + 4);
  if (type == icmp6::kTooBig) return too_big_received(ctx, item, quote, value);
  const bool hop_limit = type == icmp6::kTimeExceeded && code == 0;
  const bool limit_exceeded = type == icmp6::kParameterProblem && code == 0 && quote.limit_at != 0 &&
                              value == quote.limit_at && packet::data(item.frame, quote.at)[quote.limit_at] == 0;
  if (type == icmp6::kUnreachable) ctx.count(Counter::icmp6_unreachable_seen);
  if (hop_limit) ctx.count(Counter::icmp6_hop_limit_seen);
  if (type != icmp6::kUnreachable && !hop_limit && !limit_exceeded) return drop(ctx, item, Counter::drop_icmp6_ignored);
  if (!ctx.settings.icmp_incoming_v6) return consume(ctx, item, Counter::consumed_icmp6_error);
  relay(ctx, item, quote, kHostUnreachable);
}

}  // namespace

void icmp6_received(Context& ctx, Item& item) {
  const std::uint16_t offset = item.inner;
  const std::uint8_t* ip = packet::data(item.frame);
  const std::uint32_t length = packet::length(item.frame) - offset;
  const std::uint64_t pseudo = checksum::pseudo6(ip + ipv6::kSource, length, proto::kIcmp6);
  if (length < icmp6::kHeader || packet::window(item.frame) < offset + std::uint32_t{icmp6::kHeader} ||
      !checksum::good(checksum::sum(item.frame, offset, length, pseudo))) {
    return drop(ctx, item, Counter::drop_icmp6_bad_checksum);
  }
  const std::uint8_t type = ip[offset];
  if (type == icmp6::kEchoRequest) return echo6(ctx, item, offset);
  // Neighbour discovery behind other headers: fragmented, above all (RFC 6980 section 5).
  if (type >= 133 && type <= 137) return drop(ctx, item, Counter::drop_ndp_invalid);
  if (type >= 128) return drop(ctx, item, Counter::drop_icmp6_ignored);  // RFC 4443 section 2.4(b)
  error_received(ctx, item, offset);
}

}  // namespace lw
