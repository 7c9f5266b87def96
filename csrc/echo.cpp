// Echo to own addresses: 192.0.0.1 from inside softwires, the interface and BR addresses from their links.
#include "checksum.hpp"
#include "stage.hpp"

namespace lw {

namespace {

constexpr std::uint32_t kMostHeader = 60;  // of IPv4: that of the first fragment may be longer than that of the last

// An on-link asker is answered where the frame came from, anybody else through the next hop.
bool on_link4(const Settings& settings, Ipv4 address) {
  for (const Address4& own : settings.v4_addresses) {
    const std::uint32_t mask = own.prefix_len == 0 ? 0 : ~std::uint32_t{0} << (32 - own.prefix_len);
    if ((address & mask) == (own.address & mask)) return true;
  }
  return false;
}

bool on_link6(const Settings& settings, const Ipv6& address) {
  constexpr Ipv6 kLinkLocal{Be<std::uint64_t>{0xfe80000000000000}.raw(), 0};
  if (hash::prefix_equal(address, kLinkLocal, 10)) return true;
  for (const Address6& own : settings.v6_addresses) {
    if (hash::prefix_equal(address, own.address, own.prefix_len)) return true;
  }
  return false;
}

bool is_echo_request(const Item& item) {
  const std::uint8_t* ip = inner(item);
  const std::uint16_t header = ipv4::header_length(ip), total = ipv4::total_length(ip);
  if (ip[ipv4::kProtocol] != proto::kIcmp || total < header + icmp4::kHeader) return false;
  const std::uint32_t at = std::uint32_t{item.inner} + header;
  if (packet::window(item.frame) < at + icmp4::kHeader) return false;
  return ip[header] == icmp4::kEchoRequest &&
         checksum::good(checksum::sum(item.frame, at, std::uint32_t{total} - header));
}

// A ping may come in fragments: it is put together as by any host. False: the item has ended.
bool whole(Context& ctx, Item& item) {
  const std::uint8_t* ip = inner(item);
  if (ip[ipv4::kProtocol] != proto::kIcmp || item.group_link) {
    drop(ctx, item, Counter::drop_v4_local);
    return false;
  }
  item.passed = true;  // those that waited for the first one to tell its port come here too
  packet::cut(item.frame, std::uint32_t{item.inner} + ipv4::total_length(ip));
  const Reassembly::Fragment fragment = Reassembly::fragment4(item.frame, item.inner);
  const Reassembly::Part& part = fragment.part;
  if (part.length == 0 || (!fragment.last && part.length % 8 != 0) || kMostHeader + part.start + part.length > 65535) {
    drop(ctx, item, Counter::drop_fragment_v4_bad);
    return false;
  }
  const bool inside = from_softwire(item);
  const std::uint64_t sender =
      inside ? hash::subscriber(ipv6::source(packet::data(item.frame)), ctx.settings.subscriber_mask)
             : ipv4::source(ip);
  return put_together(ctx, item, fragment, sender);
}

}  // namespace

void local4(Context& ctx, Item& item) {
  if (ipv4::is_fragment(inner(item)) && !whole(ctx, item)) return;
  if (!is_echo_request(item) || item.group_link) return drop(ctx, item, Counter::drop_v4_local);
  const bool inside = from_softwire(item);
  const Softwire via = inside ? softwire_of(item) : Softwire{};
  const std::uint8_t* ip = inner(item);
  const Ipv4 asker = ipv4::source(ip), pinged = ipv4::destination(ip);
  const auto tos = static_cast<std::uint8_t>(ip[ipv4::kTos] & 0xfc);
  const std::uint16_t header = ipv4::header_length(ip);
  take_ipv4(item);
  rte_mbuf* frame = item.frame;
  packet::pull(frame, header);
  std::uint8_t* icmp = packet::data(frame);
  const auto before = load<std::uint16_t>(icmp);
  icmp[0] = icmp4::kEchoReply;
  store(icmp + 2, checksum::update(load<std::uint16_t>(icmp + 2), before, load<std::uint16_t>(icmp)));
  build_ipv4_icmp(ctx, frame, tos, pinged, asker, item.side);
  ctx.end(Counter::answered_echo_v4);
  item.frame = nullptr;
  if (inside) {
    wrap(ctx, frame, via);
    const std::uint16_t mtu = path_mtu(ctx, via.b4);
    if (packet::length(frame) > mtu) return split6(ctx, frame, mtu, Counter::count_, {});
    return send_made(ctx, frame, SideId::v6);
  }
  const bool on_link = on_link4(ctx.settings, asker);
  if (packet::length(frame) > ctx.settings.v4.mtu) {  // the request came in fragments
    split_answer4(ctx, frame, ctx.settings.v4.mtu, on_link ? &item.from : nullptr);
  } else if (on_link) {
    send_made_to(ctx, frame, SideId::v4, ether::kIpv4, item.from);
  } else {
    send_made(ctx, frame, SideId::v4);
  }
}

void echo6(Context& ctx, Item& item, std::uint16_t offset) {
  const std::uint8_t* ip = packet::data(item.frame);
  const Ipv6 asker = ipv6::source(ip), pinged = ipv6::destination(ip);
  if (asker.is_multicast() || asker.is_unspecified() || pinged.is_multicast()) {
    return drop(ctx, item, Counter::drop_icmp6_ignored);
  }
  rte_mbuf* frame = item.frame;
  packet::pull(frame, offset);
  packet::data(frame)[0] = icmp6::kEchoReply;
  build_ipv6_icmp(frame, pinged, asker, kOwnTtl);
  ctx.end(Counter::answered_echo_v6);
  item.frame = nullptr;
  const bool on_link = on_link6(ctx.settings, asker);
  if (packet::length(frame) > ctx.settings.v6.mtu) {  // the request came in fragments
    split_answer6(ctx, frame, ctx.settings.v6.mtu, on_link ? &item.from : nullptr);
  } else if (on_link) {
    send_made_to(ctx, frame, SideId::v6, ether::kIpv6, item.from);
  } else {
    send_made(ctx, frame, SideId::v6);
  }
}

}  // namespace lw
