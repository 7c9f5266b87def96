// Which port of a packet finds its binding: transport ports, ICMP identifiers, quoted packets, fragments
// (spec 4.2, 4.9).
#include "checksum.hpp"
#include "fragment_ports.hpp"
#include "stage.hpp"

namespace lw {

namespace {

using Result = Steering::Result;

constexpr Steering port_is(std::uint16_t port) { return {Result::port, port}; }
constexpr Steering no_port() { return {Result::none}; }
constexpr Steering refused(Counter reason) { return {Result::refused, 0, reason}; }

struct Transport {
  const std::uint8_t* ip;
  const std::uint8_t* octets;  // behind the IPv4 header
  std::uint32_t readable;      // of them
  std::uint32_t offset;        // of them from the start of the frame's data
  std::uint32_t length;        // of them in all
};

Transport transport_of(const Item& item) {
  const std::uint8_t* ip = inner(item);
  const std::uint32_t offset = std::uint32_t{item.inner} + ipv4::header_length(ip);
  const std::uint32_t length = std::uint32_t{ipv4::total_length(ip)} - ipv4::header_length(ip);
  const std::uint32_t readable = packet::window(item.frame) - offset;
  return {ip, packet::data(item.frame, offset), std::min(readable, length), offset, length};
}

// RFC 5508 REQ-3 and its mirror upstream: the quoted packet was sent by (downstream) or to (upstream) the subscriber.
Steering port_of_quoted(const Transport& message, Direction direction) {
  constexpr auto bad = Counter::drop_icmp_bad_embedded;
  if (message.readable < icmp4::kHeader + ipv4::kHeader) return refused(bad);
  const std::uint8_t* quoted = message.octets + icmp4::kHeader;
  const std::uint32_t readable = message.readable - icmp4::kHeader;
  const std::uint16_t header = ipv4::header_length(quoted);
  if (quoted[0] >> 4 != 4 || header < ipv4::kHeader || readable < header + 4U) return refused(bad);
  if (!checksum::good(checksum::sum(quoted, header)) || ipv4::is_later_fragment(quoted)) return refused(bad);
  const bool down = direction == Direction::downstream;
  const Ipv4 subscriber = down ? ipv4::destination(message.ip) : ipv4::source(message.ip);
  if ((down ? ipv4::source(quoted) : ipv4::destination(quoted)) != subscriber) return refused(bad);
  const std::uint8_t protocol = quoted[ipv4::kProtocol];
  if (proto::has_ports(protocol)) return port_is(load16(quoted + header + (down ? 0 : 2)));
  if (protocol == proto::kIcmp && icmp4::is_echo(quoted[header]) && readable >= header + 6U) {
    return port_is(load16(quoted + header + 4));
  }
  return refused(bad);
}

Steering port_of_icmp(const Item& item, const Transport& message, Direction direction) {
  if (message.readable < icmp4::kHeader) return refused(Counter::drop_icmp_malformed);
  const std::uint8_t type = message.octets[0];
  const bool steered_error =
      type == icmp4::kUnreachable || type == icmp4::kTimeExceeded || type == icmp4::kParameterProblem;
  if (!icmp4::is_echo(type) && !steered_error) return refused(Counter::drop_icmp_type);
  if (!checksum::good(checksum::sum(item.frame, message.offset, message.length))) {
    return refused(Counter::drop_icmp_bad_checksum);
  }
  if (!steered_error) return port_is(load16(message.octets + 4));
  const Steering quoted = port_of_quoted(message, direction);
  // Upstream an unusable quote is no drop of its own: it fails the source validation (RFC 7596 section 6.2).
  return quoted.result == Result::refused && direction == Direction::upstream ? no_port() : quoted;
}

Steering port_of_whole(const Item& item, const Transport& transport, Direction direction) {
  const std::uint8_t protocol = transport.ip[ipv4::kProtocol];
  if (proto::has_ports(protocol)) {
    if (transport.readable < 4) return no_port();
    return port_is(load16(transport.octets + (direction == Direction::downstream ? 2 : 0)));
  }
  return protocol == proto::kIcmp ? port_of_icmp(item, transport, direction) : no_port();
}

// A fragmented ICMP message cannot be checked or searched for a quote: only echo has a port in its first octets.
Steering port_of_first(const Item& item, const Transport& transport, Direction direction) {
  if (transport.ip[ipv4::kProtocol] != proto::kIcmp) return port_of_whole(item, transport, direction);
  if (transport.readable < icmp4::kHeader || !icmp4::is_echo(transport.octets[0])) return no_port();
  return port_is(load16(transport.octets + 4));
}

// RFC 1858 section 3.2, RFC 3128 section 3.
bool tiny_tcp(const Transport& transport) {
  constexpr std::uint32_t kTcpHeader = 20;
  if (transport.ip[ipv4::kProtocol] != proto::kTcp) return false;
  const unsigned offset = ipv4::fragment_field(transport.ip) & ipv4::kOffsetMask;
  return offset == 1 || (offset == 0 && transport.length < kTcpHeader);
}

FragmentPorts::Key key_of(const Item& item, const std::uint8_t* ip, Direction direction) {
  const bool inside = from_softwire(item);
  return {inside ? ipv6::source(packet::data(item.frame)) : Ipv6{}, load<std::uint64_t>(ip + ipv4::kSource),
          load16(ip + ipv4::kId), ip[ipv4::kProtocol],
          static_cast<std::uint8_t>(inside && direction == Direction::downstream)};
}

std::uint64_t source_of(const Context& ctx, const FragmentPorts::Key& key) {
  const std::uint64_t subscriber = hash::subscriber(key.softwire, ctx.settings.subscriber_mask);
  return hash::mix(ctx.shared.secret ^ subscriber, key.softwire == Ipv6{} ? key.addresses & 0xffffffff : 0);
}

Steering port_of_fragment(Context& ctx, Item& item, const Transport& transport, Direction direction) {
  if (tiny_tcp(transport)) return refused(Counter::drop_fragment_v4_tiny);
  const FragmentPorts::Key key = key_of(item, transport.ip, direction);
  const auto evicted = [&](rte_mbuf* chain) { drop_waiting(ctx, chain, Counter::drop_fragment_v4_limit); };
  FragmentPorts::Node* node = ctx.fragment_ports.record(key, source_of(ctx, key), ctx.now_ns, evicted);
  const bool first = !ipv4::is_later_fragment(transport.ip);
  if (node == nullptr) {
    return first ? port_of_first(item, transport, direction) : refused(Counter::drop_fragment_v4_limit);
  }
  FragmentPorts::Record& record = node->value;
  if (first) {
    const Steering steering = port_of_first(item, transport, direction);
    record.known = true;
    record.has_port = steering.result == Result::port;
    record.port = steering.port;
    follow(ctx, item, ctx.fragment_ports.detach(*node));
    return steering;
  }
  if (record.known) return record.has_port ? port_is(record.port) : no_port();
  if (!ctx.fragment_ports.hold(*node, item.frame, item.side, evicted)) return refused(Counter::drop_fragment_v4_limit);
  ctx.end(Counter::held_fragment_v4);
  item.frame = nullptr;
  return {Result::held};
}

}  // namespace

Steering steer(Context& ctx, Item& item, Direction direction) {
  const Transport transport = transport_of(item);
  if (ipv4::is_fragment(transport.ip)) [[unlikely]] {
    return port_of_fragment(ctx, item, transport, direction);
  }
  return port_of_whole(item, transport, direction);
}

namespace {

// Nearly every packet: whole, with ports. The long way through steer() finds the same, 20 to 40 cycles later.
bool plain_port(const Item& item, const std::uint8_t* ip, Direction direction, std::uint16_t& port) {
  if (ipv4::is_fragment(ip) || !proto::has_ports(ip[ipv4::kProtocol])) return false;
  const std::uint16_t header = ipv4::header_length(ip);
  if (ipv4::total_length(ip) < header + 4 || packet::window(item.frame) < item.inner + header + 4U) return false;
  port = load16(ip + header + (direction == Direction::downstream ? 2 : 0));
  return true;
}

void look_up_later(Item& item, BindingKey key) {
  item.key = key;
  item.lookup = true;
}

void take_psid(Item& item, const AddressClass& row, Ipv4 address, std::uint16_t port) {
  if (const auto psid = row.psid(port)) look_up_later(item, {address, *psid});
}

}  // namespace

bool make_key(Context& ctx, Item& item, Direction direction) {
  const std::uint8_t* ip = inner(item);
  const Ipv4 address = direction == Direction::downstream ? ipv4::destination(ip) : ipv4::source(ip);
  const AddressClass row = ctx.table.classify(address);
  item.lookup = false;
  item.softwire = nullptr;
  if (row.use() == AddressUse::none) return true;
  if (row.use() == AddressUse::whole) {
    look_up_later(item, {address, 0});
    return true;
  }
  std::uint16_t port = 0;
  if (plain_port(item, ip, direction, port)) [[likely]] {
    take_psid(item, row, address, port);
    return true;
  }
  const Steering steering = steer(ctx, item, direction);
  if (steering.result == Result::held) return false;
  if (steering.result == Result::refused) {
    drop(ctx, item, steering.reason);
    return false;
  }
  if (steering.result == Result::port) take_psid(item, row, address, steering.port);
  return true;
}

// Fragments that waited --------------------------------------------------------------------------------------------

void follow(Context& ctx, Item& item, rte_mbuf* chain) {
  rte_mbuf** end = &item.followers;
  while (*end != nullptr) end = &packet::priv<Waiting>(*end)->next;
  *end = chain;
  for (rte_mbuf* one = chain; one != nullptr; one = packet::priv<Waiting>(one)->next) {
    ctx.counters.sub(Counter::held_fragment_v4);
  }
}

void drop_waiting(Context& ctx, rte_mbuf* chain, Counter reason) {
  while (chain != nullptr) {
    rte_mbuf* next = packet::priv<Waiting>(chain)->next;
    ctx.counters.sub(Counter::held_fragment_v4);
    ctx.count(reason);
    rte_pktmbuf_free(chain);
    chain = next;
  }
}

}  // namespace lw
