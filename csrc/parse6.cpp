// The parse pass on the IPv6 side: spec section 3 upstream, steps 2 to 7, with the header walk of section 4.11.
#include "reassembly.hpp"
#include "stage.hpp"

namespace lw {

namespace {

// One step along the header chain: go on at `next`, or the item has ended, or the IPv4 packet was found.
struct Walk {
  std::uint16_t named_at{ipv6::kNextHeader};  // the octet that named the header at `at`
  std::uint16_t at{ipv6::kHeader};
  std::uint8_t next{};
};

constexpr std::uint8_t kPad1 = 0, kPadN = 1, kEncapsulationLimit = 4;

bool is_br(const Settings& settings, const Ipv6& address) {
  for (const Ipv6& br : settings.br_addresses) {
    if (br == address) return true;
  }
  return false;
}

bool is_interface(const Settings& settings, const Ipv6& address) {
  for (const Address6& own : settings.v6_addresses) {
    if (own.address == address) return true;
  }
  return false;
}

// Ends the walk; the act pass drops the packet and tells its sender. Always false.
bool refuse_later(Item& item, Counter reason, const Icmp6Error& error) {
  item.task = Task::refuse6;
  item.refusal = reason;
  item.error = error;
  return false;
}

// RFC 8200 section 4.2. False = the walk has ended.
bool read_options(Context& ctx, Item& item, std::uint16_t begin, std::uint16_t end) {
  const std::uint8_t* ip = packet::data(item.frame);
  for (std::uint16_t at = begin; at < end;) {
    const std::uint8_t type = ip[at];
    if (type == kPad1) {
      ++at;
      continue;
    }
    if (at + 2 > end || at + 2 + ip[at + 1] > end) {
      drop(ctx, item, Counter::drop_v6_malformed);
      return false;
    }
    const unsigned action = type >> 6;
    if (type != kPadN && type != kEncapsulationLimit && action != 0) {
      // Our destination is never multicast here, so both 10 and 11 draw the error.
      if (action != 1) return refuse_later(item, Counter::drop_v6_bad_extension, {icmp6::kParameterProblem, 2, at});
      drop(ctx, item, Counter::drop_v6_bad_extension);
      return false;
    }
    at = static_cast<std::uint16_t>(at + 2 + ip[at + 1]);
  }
  return true;
}

bool end_with_unknown(Item& item, const Walk& walk) {
  return refuse_later(item, Counter::drop_v6_unknown_next_header, {icmp6::kParameterProblem, 1, walk.named_at});
}

// Hop-by-hop, routing and destination options: all have their length in the second octet.
bool step_over(Context& ctx, Item& item, Walk& walk) {
  const std::uint32_t readable = packet::window(item.frame);
  const bool cut_off = packet::length(item.frame) > readable;
  const Counter short_of = cut_off ? Counter::drop_v6_header_chain : Counter::drop_v6_malformed;
  if (walk.at + 8U > readable) {
    drop(ctx, item, short_of);
    return false;
  }
  const std::uint8_t* ip = packet::data(item.frame);
  const auto end = static_cast<std::uint16_t>(walk.at + 8 * (ip[walk.at + 1] + 1));
  if (end > readable) {
    drop(ctx, item, end > packet::length(item.frame) ? Counter::drop_v6_malformed : short_of);
    return false;
  }
  if (walk.next == proto::kHopByHop && walk.at != ipv6::kHeader) return end_with_unknown(item, walk);
  if (walk.next == proto::kRouting) {
    if (ip[walk.at + 3] != 0) {  // segments left; RFC 5095: type 0 like any unknown type
      return refuse_later(item, Counter::drop_v6_bad_extension, {icmp6::kParameterProblem, 0, walk.at + 2U});
    }
  } else if (!read_options(ctx, item, static_cast<std::uint16_t>(walk.at + 2), end)) {
    return false;
  }
  walk = {walk.at, end, ip[walk.at]};
  return true;
}

// RFC 7112 section 5: the first fragment holds everything through the IPv4 header.
bool chain_complete(const std::uint8_t* data, std::uint32_t n, std::uint8_t next) {
  std::uint32_t at = 0;
  while (next == proto::kHopByHop || next == proto::kRouting || next == proto::kDestination) {
    if (at + 8 > n) return false;
    next = data[at];
    at += 8U * (data[at + 1] + 1U);
    if (at > n) return false;
  }
  return next != proto::kIpv4 || at + ipv4::kHeader <= n;
}

// An atomic fragment is processed alone (RFC 6946): its fragment header just goes.
void remove_fragment_header(rte_mbuf* frame, const Walk& walk) {
  std::uint8_t* ip = packet::data(frame);
  ip[walk.named_at] = ip[walk.at];
  std::memmove(ip + ipv6::kFragmentHeader, ip, walk.at);
  packet::pull(frame, ipv6::kFragmentHeader);
  ip = packet::data(frame);
  store16(ip + ipv6::kPayloadLength, static_cast<std::uint16_t>(packet::length(frame) - ipv6::kHeader));
}

// Checks of one fragment before it meets others. False = the item has ended.
bool fragment_good(Item& item, const Walk& walk, std::uint32_t start, bool more) {
  const std::uint8_t* ip = packet::data(item.frame);
  const std::uint32_t data_at = walk.at + std::uint32_t{ipv6::kFragmentHeader};
  const std::uint32_t length = packet::length(item.frame) - data_at;
  if (more && (length % 8 != 0 || length == 0)) {
    return refuse_later(item, Counter::drop_fragment_v6_bad_length,
                        {icmp6::kParameterProblem, 0, ipv6::kPayloadLength});
  }
  if (walk.at - ipv6::kHeader + start + length > 65535) {
    return refuse_later(item, Counter::drop_fragment_v6_too_long, {icmp6::kParameterProblem, 0, walk.at + 2U});
  }
  const std::uint32_t readable = packet::window(item.frame) - data_at;
  if (start == 0 && !chain_complete(ip + data_at, std::min(readable, length), ip[walk.at])) {
    return refuse_later(item, Counter::drop_fragment_v6_incomplete_chain, {icmp6::kParameterProblem, 3, 0});
  }
  return true;
}

// True = item.frame is a packet without this fragment header, to be walked anew.
bool reassemble(Context& ctx, Item& item, const Walk& walk) {
  if (walk.at + std::uint32_t{ipv6::kFragmentHeader} > packet::window(item.frame)) {
    drop(ctx, item, Counter::drop_v6_malformed);
    return false;
  }
  const std::uint8_t* ip = packet::data(item.frame);
  const std::uint16_t field = load16(ip + walk.at + 2);
  const std::uint32_t start = field & 0xfff8U;
  const bool more = (field & 1) != 0;
  if (start == 0 && !more) {
    remove_fragment_header(item.frame, walk);
    return true;
  }
  if (!fragment_good(item, walk, start, more)) return false;
  const std::uint64_t subscriber = hash::subscriber(ipv6::source(ip), ctx.settings.subscriber_mask);
  return put_together(ctx, item, Reassembly::fragment6(item.frame, walk.named_at, walk.at), subscriber);
}

bool is_pcp(const Settings& settings, const Item& item) {
  constexpr std::uint16_t kPcpServerPort = 5351;  // RFC 6887 section 19.1
  const std::uint8_t* ip = inner(item);
  if (!settings.pcp || ip[ipv4::kProtocol] != proto::kUdp || ipv4::is_fragment(ip)) return false;
  const std::uint16_t header = ipv4::header_length(ip);
  if (ipv4::total_length(ip) < header + 8 || packet::window(item.frame) < item.inner + header + 8U) return false;
  if (load16(ip + header + 2) != kPcpServerPort) return false;
  for (const Ipv4 address : settings.pcp_addresses) {
    if (address == ipv4::destination(ip)) return true;
  }
  return false;
}

bool found_ipv4(Context& ctx, Item& item, std::uint16_t at) {
  item.inner = at;
  if (!is_br(ctx.settings, ipv6::destination(packet::data(item.frame)))) {  // DP-070
    drop(ctx, item, Counter::drop_v6_not_for_us);
    return false;
  }
  if (const Counter fault = check_ipv4(item.frame, at); fault != Counter::count_) {
    drop(ctx, item, fault);
    return false;
  }
  // PCP-137: before the binding is checked, for a B4 without one is just who has to ask.
  if (is_pcp(ctx.settings, item)) [[unlikely]] {
    item.task = Task::punt;
    return true;
  }
  return make_key(ctx, item, Direction::upstream);
}

bool walk_headers(Context& ctx, Item& item) {
  Walk walk{.next = packet::data(item.frame)[ipv6::kNextHeader]};
  for (;;) {
    switch (walk.next) {
      case proto::kIpv4:
        return found_ipv4(ctx, item, walk.at);
      case proto::kHopByHop:
      case proto::kRouting:
      case proto::kDestination:
        if (!step_over(ctx, item, walk)) return false;
        continue;
      case proto::kFragment:
        if (!reassemble(ctx, item, walk)) return false;
        walk = {.next = packet::data(item.frame)[ipv6::kNextHeader]};
        continue;
      case proto::kIcmp6:
        item.task = Task::icmp6;
        item.inner = walk.at;
        return true;
      case proto::kNone:
        drop(ctx, item, Counter::drop_v6_no_payload);
        return false;
      case proto::kTcp:
      case proto::kUdp:
        return refuse_later(item, Counter::drop_v6_no_listener, {icmp6::kUnreachable, 4, 0});
      default:
        return end_with_unknown(item, walk);
    }
  }
}

Counter check_ipv6(rte_mbuf* frame) {
  if (packet::window(frame) < ipv6::kHeader) return Counter::drop_v6_malformed;
  const std::uint8_t* ip = packet::data(frame);
  if (ip[0] >> 4 != 6) return Counter::drop_v6_malformed;
  const std::uint32_t total = std::uint32_t{ipv6::kHeader} + ipv6::payload_length(ip);
  if (total > packet::length(frame)) return Counter::drop_v6_truncated;
  packet::cut(frame, total);
  return Counter::count_;
}

}  // namespace

bool parse6(Context& ctx, Item& item) {
  if (const Counter fault = check_ipv6(item.frame); fault != Counter::count_) {
    drop(ctx, item, fault);
    return false;
  }
  const std::uint8_t* ip = packet::data(item.frame);
  const Ipv6 destination = ipv6::destination(ip);
  if (destination.is_multicast()) {
    item.task = Task::multicast;
    return true;
  }
  if (!is_br(ctx.settings, destination) && !is_interface(ctx.settings, destination)) {
    drop(ctx, item, Counter::drop_v6_not_for_us);
    return false;
  }
  if (is_ndp(item)) {
    item.task = Task::ndp;
    return true;
  }
  const Ipv6 source = ipv6::source(ip);
  if (source.is_multicast() || source.is_unspecified()) {
    drop(ctx, item, Counter::drop_v6_bad_source);
    return false;
  }
  walk_headers(ctx, item);
  return item.frame != nullptr;
}

}  // namespace lw
