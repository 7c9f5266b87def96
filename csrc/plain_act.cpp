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
  void write(std::uint8_t* end) const {
    store(end - 16, last);
    if (length > 16) store(end - 18, before);
  }
};

// Octets 8 to 11 of an IPv4 header with the TTL down by one: a word of the sum is less by one, so the checksum is more
// by one, as RFC 1624 equation 3 counts: of the two zeros it leaves the one that is all zeros.
std::uint32_t less_ttl(std::uint32_t ttl_to_checksum) {
  const std::uint32_t carry = ttl_to_checksum >= 0xfffe0000 ? 0x10000 : 0;
  return ttl_to_checksum - 1 + 0x10000 + carry;
}

}  // namespace

// Packets that leave by one side, one behind the other. kBare: there is nothing to be done that few ask for.
template <bool kBare>
struct PlainWay::Run {
  // `begins`: how far before its IPv4 header a packet begins when it comes, and when it leaves.
  [[gnu::always_inline]] Run(const PlainWay& plain_way, Context& context, SideId out, unsigned most, unsigned came,
                             unsigned overhead)
      : way(plain_way),
        ctx(context),
        settings(*plain_way.settings_),
        outer(plain_way.outer_),
        to(context.out.link(out)),
        side(out),
        secret(context.shared.secret),
        egress((out == SideId::v4 ? settings.v4 : settings.v6).egress_filter.get()),
        further_in(static_cast<std::uint16_t>(came - overhead - to.length)) {
    if (ctx.out.queue(side).n + most > Transmitter::kQueue) flush(ctx);
    auto& queue = ctx.out.queue(side);
    start = next = queue.frames.data() + queue.n;
  }
  // `taken` packets from number `from` on have left, or a filter has them.
  [[gnu::always_inline]] void end(unsigned from, unsigned taken, Counter rx, Counter rx_bytes, Counter edge) {
    auto& queue = ctx.out.queue(side);
    if (kBare) next = std::copy_n(&way.frames_[from], taken, start);
    queue.n = static_cast<std::uint16_t>(queue.n + (next - start));
    queue.octets += octets_out;
    ctx.count(rx, taken);
    ctx.count(rx_bytes, octets_in);
    ctx.count(edge, static_cast<std::uint64_t>(next - start));
  }

  // The IPv4 header of a packet that goes on: TTL, TOS, MSS.
  [[gnu::always_inline]] void rewrite(std::uint8_t* ip, std::uint64_t first, std::uint64_t second, std::uint8_t tos) {
    store(ip + ipv4::kTtl, less_ttl(static_cast<std::uint32_t>(second)));
    if (static_cast<std::uint8_t>(first >> 8) != tos) [[unlikely]] {
      rewrite_ttl_tos(ip, ip[ipv4::kTtl], tos);
    }
    if (!kBare && settings.tcp_mss != 0) {
      clamp_mss(ctx, ip, std::min<std::uint32_t>(ipv4::total_length(ip), packet::kWindow));
    }
  }

  // False: nothing was done.
  [[gnu::always_inline]] bool wrap(rte_mbuf* frame, std::uint8_t* ip, const BindingTable::Found& found,
                                   std::uint64_t first, std::uint8_t tos) {
    const auto second = load<std::uint64_t>(ip + ipv4::kTtl);
    const std::uint32_t total = total_length(first), length = total + outer.overhead;
    if ((second & 0xff) <= 1) return false;
    if (length > ipv6::kMinimumMtu) {
      const Ipv6 copy = found.b4;  // its address is given away: `found` can stay in registers
      if (length > path_mtu(ctx, copy)) return false;
    }
    const std::uint64_t begin = begin_outer(ip, second, tos, total);
    rewrite(ip, first, second, tos);
    std::uint8_t* at = ip - (kBare ? ipv6::kHeader : outer.overhead);
    if (!kBare && outer.option != 0) store(ip - sizeof outer.option, outer.option);
    store(at, begin);
    store(at + ipv6::kSource, *found.br);
    store(at + ipv6::kDestination, found.b4);
    to.write(at);
    leave(frame, length);
    return true;
  }

  [[gnu::always_inline]] bool unwrap(rte_mbuf* frame, std::uint8_t* ip, std::uint64_t first, std::uint8_t tos) {
    const auto second = load<std::uint64_t>(ip + ipv4::kTtl);
    const std::uint32_t length = total_length(first);
    if ((second & 0xff) <= 1 || length > settings.v4.mtu) return false;
    rewrite(ip, first, second, tos);
    to.write(ip);
    leave(frame, length);
    return true;
  }

  // The first eight octets of the outer header.
  [[gnu::always_inline]] std::uint64_t begin_outer(const std::uint8_t* ip, std::uint64_t second, std::uint8_t tos,
                                                   std::uint32_t total) const {
    std::uint64_t label = 0;
    if (kBare || outer.hash) {
      label = flow_label_of(secret, second, load<std::uint64_t>(ip + ipv4::kDestination));
    }
    const std::uint64_t traffic_class = std::uint64_t{tos} << 52 & outer.class_and;
    return byte_swap((outer.fixed | traffic_class | label << 32) + (std::uint64_t{total} << 16));
  }

  // `packet`: octets behind the link header.
  [[gnu::always_inline]] void leave(rte_mbuf* frame, std::uint32_t packet) {
    const std::uint32_t octets = packet + to.length;
    octets_in += frame->pkt_len;
    frame->data_off = static_cast<std::uint16_t>(frame->data_off + further_in);
    frame->data_len = static_cast<std::uint16_t>(octets);
    frame->pkt_len = octets;
    if (!kBare && egress != nullptr && !passes_untagged(*egress, frame)) {
      ctx.count(Counter::drop_filter_out);
      return rte_pktmbuf_free(frame);
    }
    octets_out += octets;
    if (!kBare) *next++ = frame;
  }

  const PlainWay& way;
  Context& ctx;
  const Settings& settings;
  const Outer outer;
  const LinkEnd to;
  const SideId side;
  const std::uint64_t secret;
  const Filter* const egress;
  const std::uint16_t further_in;  // a packet begins when it leaves than when it came; modulo 2^16
  rte_mbuf** start{};
  rte_mbuf** next{};
  std::uint64_t octets_in{};
  std::uint32_t octets_out{};
};

template <bool kBare>
unsigned PlainWay::encap(Context& ctx, const unsigned from, unsigned last) {
  Run<kBare> run(*this, ctx, SideId::v6, last - from, v4_.header, outer_.overhead);
  if (!run.to.resolved) return from;
  unsigned k = from;
  for (; k < last && kinds_[k] == kEncap; ++k) {
    BindingTable::Found found;
    if (!ctx.table.take(first_, k, found)) break;
    const auto first = load<std::uint64_t>(ips_[k]);
    if (!run.wrap(frames_[k], ips_[k], found, first, static_cast<std::uint8_t>(first >> 8))) break;
  }
  run.end(from, k - from, Counter::rx_v4, Counter::rx_v4_bytes, Counter::encap);
  return k;
}

// Whether the binding vouches for a packet from a softwire; then tos is what the IPv4 packet goes on with.
template <bool kBare>
[[gnu::always_inline]] inline bool PlainWay::vouched(const Context& ctx, unsigned k, std::uint64_t first,
                                                     std::uint8_t& tos) const {
  BindingTable::Found found;
  if (!ctx.table.take(first_, k, found)) return false;
  const std::uint8_t* outer = ips_[k] - ipv6::kHeader;
  if (!are(outer + ipv6::kSource, found.b4, *found.br)) return false;
  // Equal marks combine to themselves and are suspicious in no cell (RFC 6040 figure 4).
  const auto inside = static_cast<std::uint8_t>(first >> 8);
  const std::uint8_t outside = ipv6::traffic_class(outer);
  tos = !kBare && settings_->dscp == DscpMode::pipe ? inside : outside;
  return ((outside ^ inside) & 3) == 0;
}

template <bool kBare>
unsigned PlainWay::decap(Context& ctx, const unsigned from, unsigned last) {
  Run<kBare> run(*this, ctx, SideId::v4, last - from, v6_.header + unsigned{ipv6::kHeader}, 0);
  if (!run.to.resolved) return from;
  unsigned k = from;
  for (; k < last && kinds_[k] == kDecap; ++k) {
    const auto first = load<std::uint64_t>(ips_[k]);
    std::uint8_t tos;
    if (!vouched<kBare>(ctx, k, first, tos) || !run.unwrap(frames_[k], ips_[k], first, tos)) break;
  }
  run.end(from, k - from, Counter::rx_v6, Counter::rx_v6_bytes, Counter::decap);
  return k;
}

template <bool kBare>
unsigned PlainWay::hairpin(Context& ctx, const unsigned from, unsigned last) {
  Run<kBare> run(*this, ctx, SideId::v6, last - from, v6_.header + unsigned{ipv6::kHeader}, outer_.overhead);
  if (!run.to.resolved) return from;
  unsigned k = from;
  for (; k < last && kinds_[k] >= kHairpin; ++k) {
    const auto first = load<std::uint64_t>(ips_[k]);
    std::uint8_t tos;
    BindingTable::Found onward;
    if (!vouched<kBare>(ctx, k, first, tos) || !ctx.table.take(second_, kinds_[k] - unsigned{kHairpin}, onward)) break;
    if (!run.wrap(frames_[k], ips_[k], onward, first, tos)) break;
  }
  run.end(from, k - from, Counter::rx_v6, Counter::rx_v6_bytes, Counter::hairpin);
  // Of those that no filter refused, less what was put before them.
  const auto queued = static_cast<std::uint32_t>(run.next - run.start);
  ctx.count(Counter::hairpin_bytes, run.octets_out - queued * (std::uint32_t{run.outer.overhead} + run.to.length));
  return k;
}

// Those that have just been queued for the way out, where no filter waits for them: their headers are still there.
void PlainWay::count_run(Context& ctx, unsigned first, unsigned last) const {
  for (unsigned k = first; k < last; ++k) {
    const std::uint16_t octets = ipv4::total_length(ips_[k]);
    const auto count = [&](BindingAccounts::Number number, Account::Way way) {
      if (number != 0) ctx.book[number].add(way, octets);
    };
    count(accounts_[k], kinds_[k] == kEncap ? Account::in : Account::out);
    if (kinds_[k] >= kHairpin) count(onward_accounts_[kinds_[k] - unsigned{kHairpin}], Account::in);
  }
}

template <bool kBare>
unsigned PlainWay::act_as(Context& ctx, unsigned first, unsigned last) {
  unsigned k = first;
  while (k < last) {
    const std::uint8_t kind = kinds_[k];
    const unsigned done = kind == kEncap   ? encap<kBare>(ctx, k, last)
                          : kind == kDecap ? decap<kBare>(ctx, k, last)
                                           : hairpin<kBare>(ctx, k, last);
    if (done == k) break;
    if (ctx.book != nullptr) [[unlikely]] {
      count_run(ctx, k, done);
    }
    k = done;
  }
  return k;
}

unsigned PlainWay::act(Context& ctx, unsigned first, unsigned last) {
  return bare_ ? act_as<true>(ctx, first, last) : act_as<false>(ctx, first, last);
}

}  // namespace lw
