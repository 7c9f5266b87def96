// Neighbour discovery, as much of it as a router interface owes its link (RFC 4861 sections 4.3, 4.4, 7; RFC 6980).
#include "checksum.hpp"
#include "stage.hpp"

namespace lw {

namespace {

constexpr std::uint16_t kMessage = 24;  // type, code, checksum, flags, target
constexpr std::uint16_t kOption = 8;
constexpr std::uint8_t kSourceLinkAddress = 1, kTargetLinkAddress = 2;
constexpr std::uint8_t kRouter = 0x80, kSolicited = 0x40, kOverride = 0x20;
constexpr std::uint8_t kNdpHopLimit = 255;

struct Message {
  const std::uint8_t* octets;
  std::uint32_t length;
  Ipv6 source, destination, target;
};

// The link-layer address option of the wanted type, or null. False: an option of length 0 spoils the message.
bool find_link_address(const Message& message, std::uint8_t type, const std::uint8_t*& found) {
  found = nullptr;
  for (std::uint32_t at = kMessage; at + 2 <= message.length;) {
    const std::uint32_t length = message.octets[at + 1] * 8U;
    if (length == 0 || at + length > message.length) return false;
    if (message.octets[at] == type && length == kOption) found = message.octets + at + 2;
    at += length;
  }
  return true;
}

Mac multicast_mac(const Ipv6& group) {  // RFC 2464 section 7
  return {{0x33, 0x33, group.octet(12), group.octet(13), group.octet(14), group.octet(15)}};
}

bool is_ours(const Settings& settings, const Ipv6& address) {
  for (const Address6& own : settings.v6_addresses) {
    if (own.address == address) return true;
  }
  for (const Ipv6& br : settings.br_addresses) {
    if (br == address) return true;
  }
  return false;
}

void write_message(std::uint8_t* icmp, std::uint8_t type, std::uint8_t flags, const Ipv6& target) {
  icmp[0] = type;
  icmp[1] = 0;
  store16(icmp + 2, 0);
  store32(icmp + 4, std::uint32_t{flags} << 24);
  store(icmp + 8, target);
}

std::uint8_t* append_link_address(std::uint8_t* option, std::uint8_t type, const Mac& mac) {
  option[0] = type;
  option[1] = 1;
  store(option + 2, mac);
  return option + kOption;
}

// An advertisement or solicitation with our link-layer address, as an ICMPv6 message at the start of `frame`.
void build(const Settings& settings, rte_mbuf* frame, std::uint8_t type, std::uint8_t flags, const Ipv6& target) {
  frame->data_len = static_cast<std::uint16_t>(kMessage + kOption);
  frame->pkt_len = frame->data_len;
  std::uint8_t* icmp = packet::data(frame);
  write_message(icmp, type, flags, target);
  append_link_address(icmp + kMessage, type == icmp6::kSolicitation ? kSourceLinkAddress : kTargetLinkAddress,
                      settings.v6.mac);
}

void solicitation(Context& ctx, Item& item, const Message& message) {
  if (message.target.is_multicast()) return drop(ctx, item, Counter::drop_ndp_invalid);
  const std::uint8_t* link = nullptr;
  const bool duplicate_check = message.source.is_unspecified();
  if (!find_link_address(message, kSourceLinkAddress, link) ||
      (duplicate_check && (link != nullptr || message.destination != ipv6::solicited_node(message.target)))) {
    return drop(ctx, item, Counter::drop_ndp_invalid);
  }
  if (!is_ours(ctx.settings, message.target)) return drop(ctx, item, Counter::drop_ndp_not_ours);
  const Ipv6 to = duplicate_check ? ipv6::kAllNodes : message.source, target = message.target;
  const Mac to_mac = duplicate_check ? multicast_mac(to) : link != nullptr ? load<Mac>(link) : item.from;
  if (link != nullptr && !load<Mac>(link).is_group() && message.source == ctx.settings.v6_next_hop) {
    ctx.shared.v6.learn(load<Mac>(link), false, ctx.now_ns);
  }
  packet::cut(item.frame, packet::window(item.frame));
  build(ctx.settings, item.frame, icmp6::kAdvertisement,
        static_cast<std::uint8_t>(kRouter | kOverride | (duplicate_check ? 0 : kSolicited)), target);
  build_ipv6_icmp(item.frame, target, to, kNdpHopLimit);
  ctx.end(Counter::answered_ndp);
  send_made_to(ctx, item.frame, SideId::v6, ether::kIpv6, to_mac);
  item.frame = nullptr;
}

// RFC 4861 section 7.2.5 for the one neighbour we keep.
void advertisement(Context& ctx, Item& item, const Message& message) {
  const std::uint8_t* link = nullptr;
  const std::uint8_t flags = message.octets[4];
  const bool solicited = (flags & kSolicited) != 0;
  if (!find_link_address(message, kTargetLinkAddress, link) || message.target.is_multicast() ||
      (solicited && message.destination.is_multicast())) {
    return drop(ctx, item, Counter::drop_ndp_invalid);
  }
  if (message.target == ctx.settings.v6_next_hop) {
    Neighbor& neighbor = ctx.shared.v6;
    if (link != nullptr) {
      const Mac mac = load<Mac>(link);
      const bool takes = !neighbor.resolved() || (flags & kOverride) != 0 || neighbor.mac() == mac;
      if (takes && !mac.is_group()) {
        neighbor.learn(mac, solicited, ctx.now_ns);
      } else {
        neighbor.doubt();
      }
    } else if (solicited) {
      neighbor.confirm(ctx.now_ns);
    }
  }
  consume(ctx, item, Counter::consumed_ndp);
}

rte_mbuf* make(Context& ctx) {
  rte_mbuf* frame = rte_pktmbuf_alloc(ctx.pool);
  if (frame == nullptr) ctx.count(Counter::tx_failed);
  return frame;
}

}  // namespace

bool is_ndp(const Item& item) {
  if (packet::window(item.frame) <= ipv6::kHeader) return false;
  const std::uint8_t* ip = packet::data(item.frame);
  return ip[ipv6::kNextHeader] == proto::kIcmp6 && ip[ipv6::kHeader] >= 133 && ip[ipv6::kHeader] <= 137;
}

void ndp_received(Context& ctx, Item& item) {
  const std::uint8_t* ip = packet::data(item.frame);
  const std::uint32_t length = packet::length(item.frame) - ipv6::kHeader;
  const std::uint64_t pseudo = checksum::pseudo6(ip + ipv6::kSource, length, proto::kIcmp6);
  if (length < icmp6::kHeader || !checksum::good(checksum::sum(item.frame, ipv6::kHeader, length, pseudo))) {
    return drop(ctx, item, Counter::drop_icmp6_bad_checksum);
  }
  const Message message{ip + ipv6::kHeader, std::min(length, packet::window(item.frame) - ipv6::kHeader),
                        ipv6::source(ip), ipv6::destination(ip), load<Ipv6>(ip + ipv6::kHeader + 8)};
  const std::uint8_t type = message.octets[0];
  if (type != icmp6::kSolicitation && type != icmp6::kAdvertisement) {
    return drop(ctx, item, Counter::drop_icmp6_ignored);
  }
  if (ip[ipv6::kHopLimit] != kNdpHopLimit || message.octets[1] != 0 || message.length < kMessage) {
    return drop(ctx, item, Counter::drop_ndp_invalid);
  }
  if (type == icmp6::kSolicitation) return solicitation(ctx, item, message);
  advertisement(ctx, item, message);
}

void multicast_received(Context& ctx, Item& item) {
  if (is_ndp(item)) return ndp_received(ctx, item);
  if (packet::data(item.frame)[ipv6::kNextHeader] == proto::kFragment) {
    return drop(ctx, item, Counter::drop_ndp_invalid);  // RFC 6980
  }
  if (is_mld_query(item)) return mld_query_received(ctx, item);
  drop(ctx, item, Counter::drop_v6_not_for_us);
}

void send_solicitation(Context& ctx, const Mac* direct) {
  rte_mbuf* frame = make(ctx);
  if (frame == nullptr) return;
  const Ipv6& target = ctx.settings.v6_next_hop;
  const Ipv6 to = direct != nullptr ? target : ipv6::solicited_node(target);
  build(ctx.settings, frame, icmp6::kSolicitation, 0, target);
  build_ipv6_icmp(frame, ctx.settings.v6_addresses.front().address, to, kNdpHopLimit);
  send_made_to(ctx, frame, SideId::v6, ether::kIpv6, direct != nullptr ? *direct : multicast_mac(to),
               Counter::ndp_sent);
}

void send_unsolicited_advertisement(Context& ctx, const Ipv6& address) {
  rte_mbuf* frame = make(ctx);
  if (frame == nullptr) return;
  build(ctx.settings, frame, icmp6::kAdvertisement, kRouter | kOverride, address);
  build_ipv6_icmp(frame, address, ipv6::kAllNodes, kNdpHopLimit);
  send_made_to(ctx, frame, SideId::v6, ether::kIpv6, multicast_mac(ipv6::kAllNodes), Counter::ndp_sent);
}

}  // namespace lw
