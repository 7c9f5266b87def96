// Plain packets are rewritten and queued for the way out.
#include <algorithm>
#include <array>

#include "checksum.hpp"
#include "filter.hpp"
#include "plain.hpp"

namespace lw {

namespace {

using Half = std::array<std::uint64_t, 2>;

// A link header that ends at an address: its last 16 octets in one store, which may write two dead octets before it.
struct LinkEnd {
  bool resolved;
  std::uint8_t length;
  std::uint16_t before;  // the two first octets of a tagged header
  Half last;

  explicit LinkEnd(const Transmitter::Link& link) : resolved(link.resolved), length(link.length) {
    std::array<std::uint8_t, 32> octets{};
    std::memcpy(octets.data() + octets.size() - length, link.header.data(), length);
    before = load<std::uint16_t>(octets.data() + 14);
    last = load<Half>(octets.data() + 16);
  }
  std::uint8_t* write(std::uint8_t* end) const {
    store(end - 16, last);
    if (length > 16) store(end - 18, before);
    return end - length;
  }
};

// RFC 1624 for a TTL that goes down by one: ~m + m' is 0xfffe whatever the word, for the TTL is its low octet.
std::uint64_t less_ttl(std::uint64_t second) {
  const auto check = static_cast<std::uint16_t>(second >> 16);
  std::uint32_t sum = std::uint32_t{static_cast<std::uint16_t>(~check)} + 0xfffe;
  sum = (sum & 0xffff) + (sum >> 16);
  const std::uint64_t mended = static_cast<std::uint16_t>(~sum);
  return ((second - 1) & ~std::uint64_t{0xffff0000}) | mended << 16;
}

}  // namespace

// Packets that leave by one side, one behind the other.
struct PlainWay::Run {
  [[gnu::always_inline]] Run(const PlainWay& plain_way, Context& context, SideId out, unsigned most)
      : way(plain_way),
        ctx(context),
        settings(*plain_way.settings_),
        outer(plain_way.outer_),
        to(context.out.link(out)),
        side(out),
        egress((out == SideId::v4 ? settings.v4 : settings.v6).egress_filter.get()),
        clamp(settings.tcp_mss != 0) {
    if (ctx.out.queue(side).n + most > Transmitter::kQueue) flush(ctx);
    auto& queue = ctx.out.queue(side);
    start = next = queue.frames.data() + queue.n;
  }
  [[gnu::always_inline]] void end(unsigned taken, Counter rx, Counter rx_bytes, Counter edge) {
    auto& queue = ctx.out.queue(side);
    queue.n = static_cast<std::uint16_t>(queue.n + (next - start));
    queue.octets += octets_out;
    ctx.count(rx, taken);
    ctx.count(rx_bytes, octets_in);
    ctx.count(edge, static_cast<std::uint64_t>(next - start));
  }

  // The IPv4 header of a packet that goes on: TTL, TOS, MSS.
  [[gnu::always_inline]] void rewrite(std::uint8_t* ip, std::uint64_t second, std::uint8_t tos) {
    store(ip + ipv4::kTtl, less_ttl(second));
    if (ip[ipv4::kTos] != tos) [[unlikely]] {
      rewrite_ttl_tos(ip, ip[ipv4::kTtl], tos);
    }
    if (clamp) [[unlikely]] {
      clamp_mss(ctx, ip, std::min<std::uint32_t>(ipv4::total_length(ip), packet::kWindow));
    }
  }

  // False: nothing was done.
  [[gnu::always_inline]] bool wrap(const Packet& packet, const BindingTable::Found& found, std::uint64_t first,
                                   std::uint8_t tos) {
    std::uint8_t* ip = packet.ip;
    const auto second = load<std::uint64_t>(ip + ipv4::kTtl);
    const std::uint32_t length = total_length(first) + outer.overhead;
    if ((second & 0xff) <= 1) return false;
    if (length > ipv6::kMinimumMtu) {
      const Ipv6 copy = found.b4;  // its address is given away: `found` can stay in registers
      if (length > path_mtu(ctx, copy)) return false;
    }
    const std::uint64_t begin = begin_outer(ip, second, tos, length);
    rewrite(ip, second, tos);
    std::uint8_t* at = ip - outer.overhead;
    if (outer.option != 0) store(ip - sizeof outer.option, outer.option);
    store(at, begin);
    store(at + ipv6::kSource, *found.br);
    store(at + ipv6::kDestination, found.b4);
    leave(packet.frame, to.write(at), length + to.length);
    return true;
  }

  [[gnu::always_inline]] bool unwrap(const Packet& packet, std::uint64_t first, std::uint8_t tos) {
    const auto second = load<std::uint64_t>(packet.ip + ipv4::kTtl);
    const std::uint32_t length = total_length(first);
    if ((second & 0xff) <= 1 || length > settings.v4.mtu) return false;
    rewrite(packet.ip, second, tos);
    leave(packet.frame, to.write(packet.ip), length + to.length);
    return true;
  }

  // The first eight octets of the outer header.
  [[gnu::always_inline]] std::uint64_t begin_outer(const std::uint8_t* ip, std::uint64_t second, std::uint8_t tos,
                                                   std::uint32_t length) const {
    std::uint32_t label = outer.label;
    if (outer.hash) {
      const std::uint64_t rest = (second >> 8 & 0xff) | std::uint64_t{load<std::uint32_t>(ip + ipv4::kHeader)} << 8;
      label = flow_label_of(ctx.shared.secret, load<std::uint64_t>(ip + ipv4::kSource), rest);
    }
    const std::uint64_t traffic_class = (tos & outer.class_and) | outer.class_or;
    const std::uint64_t payload = length - ipv6::kHeader;
    return byte_swap(outer.fixed | traffic_class << 52 | std::uint64_t{label} << 32 | payload << 16);
  }

  [[gnu::always_inline]] void leave(rte_mbuf* frame, const std::uint8_t* begins, std::uint32_t octets) {
    octets_in += frame->pkt_len;
    frame->data_off = static_cast<std::uint16_t>(begins - static_cast<const std::uint8_t*>(frame->buf_addr));
    frame->data_len = static_cast<std::uint16_t>(octets);
    frame->pkt_len = octets;
    if (egress != nullptr && !passes_untagged(*egress, frame)) [[unlikely]] {
      ctx.count(Counter::drop_filter_out);
      return rte_pktmbuf_free(frame);
    }
    octets_out += octets;
    *next++ = frame;
  }

  const PlainWay& way;
  Context& ctx;
  const Settings& settings;
  const Outer outer;
  const LinkEnd to;
  const SideId side;
  const Filter* const egress;
  const bool clamp;
  rte_mbuf** start{};
  rte_mbuf** next{};
  std::uint64_t octets_in{};
  std::uint32_t octets_out{};
};

unsigned PlainWay::encap(Context& ctx, const unsigned from, unsigned last) {
  Run run(*this, ctx, SideId::v6, last - from);
  if (!run.to.resolved) return from;
  unsigned k = from;
  for (; k < last && kinds_[k] == kEncap; ++k) {
    const Packet packet = packets_[k];
    BindingTable::Found found;
    if (!ctx.table.take(first_, k, found)) break;
    const auto first = load<std::uint64_t>(packet.ip);
    if (!run.wrap(packet, found, first, static_cast<std::uint8_t>(first >> 8))) break;
  }
  run.end(k - from, Counter::rx_v4, Counter::rx_v4_bytes, Counter::encap);
  return k;
}

// Whether the binding vouches for a packet from a softwire; then tos is what the IPv4 packet goes on with.
[[gnu::always_inline]] inline bool PlainWay::vouched(const Context& ctx, unsigned k, std::uint64_t first,
                                                     std::uint8_t& tos) const {
  BindingTable::Found found;
  if (!ctx.table.take(first_, k, found)) return false;
  const std::uint8_t* outer = packets_[k].ip - ipv6::kHeader;
  if (ipv6::source(outer) != found.b4 || ipv6::destination(outer) != *found.br) return false;
  // Equal marks combine to themselves and are suspicious in no cell (RFC 6040 figure 4).
  const auto inside = static_cast<std::uint8_t>(first >> 8);
  const std::uint8_t outside = ipv6::traffic_class(outer);
  tos = settings_->dscp == DscpMode::pipe ? inside : outside;
  return ((outside ^ inside) & 3) == 0;
}

unsigned PlainWay::decap(Context& ctx, const unsigned from, unsigned last) {
  Run run(*this, ctx, SideId::v4, last - from);
  if (!run.to.resolved) return from;
  unsigned k = from;
  for (; k < last && kinds_[k] == kDecap; ++k) {
    const auto first = load<std::uint64_t>(packets_[k].ip);
    std::uint8_t tos;
    if (!vouched(ctx, k, first, tos) || !run.unwrap(packets_[k], first, tos)) break;
  }
  run.end(k - from, Counter::rx_v6, Counter::rx_v6_bytes, Counter::decap);
  return k;
}

unsigned PlainWay::hairpin(Context& ctx, const unsigned from, unsigned last) {
  Run run(*this, ctx, SideId::v6, last - from);
  if (!run.to.resolved) return from;
  unsigned k = from;
  for (; k < last && kinds_[k] >= kHairpin; ++k) {
    const auto first = load<std::uint64_t>(packets_[k].ip);
    std::uint8_t tos;
    BindingTable::Found onward;
    if (!vouched(ctx, k, first, tos) || !ctx.table.take(second_, kinds_[k] - unsigned{kHairpin}, onward)) break;
    if (!run.wrap(packets_[k], onward, first, tos)) break;
  }
  run.end(k - from, Counter::rx_v6, Counter::rx_v6_bytes, Counter::hairpin);
  // Of those that no filter refused, less what was put before them.
  const auto queued = static_cast<std::uint32_t>(run.next - run.start);
  ctx.count(Counter::hairpin_bytes, run.octets_out - queued * (std::uint32_t{run.outer.overhead} + run.to.length));
  return k;
}

// Those that have just been queued for the way out, where no filter waits for them: their headers are still there.
void PlainWay::count_run(Context& ctx, unsigned first, unsigned last) const {
  for (unsigned k = first; k < last; ++k) {
    const std::uint16_t octets = ipv4::total_length(packets_[k].ip);
    const auto count = [&](BindingAccounts::Number number, Account::Way way) {
      if (number != 0) ctx.book[number].add(way, octets);
    };
    count(accounts_[k], kinds_[k] == kEncap ? Account::in : Account::out);
    if (kinds_[k] >= kHairpin) count(onward_accounts_[kinds_[k] - unsigned{kHairpin}], Account::in);
  }
}

unsigned PlainWay::act(Context& ctx, unsigned first, unsigned last) {
  unsigned k = first;
  while (k < last) {
    const std::uint8_t kind = kinds_[k];
    const unsigned done = kind == kEncap   ? encap(ctx, k, last)
                          : kind == kDecap ? decap(ctx, k, last)
                                           : hairpin(ctx, k, last);
    if (done == k) break;
    if (ctx.book != nullptr) [[unlikely]] {
      count_run(ctx, k, done);
    }
    k = done;
  }
  return k;
}

}  // namespace lw
