// Fragments that are put together here, and what becomes of those that are not: outer IPv6 ones, and IPv4 ones for the
// router itself.
#include "reassembly.hpp"
#include "stage.hpp"

namespace lw {

namespace {

Counter held(bool ipv4) { return ipv4 ? Counter::held_fragment_v4 : Counter::held_fragment_v6; }

// `of_ipv6` as in Reassembly::reason.
void drop_parts(Context& ctx, rte_mbuf* chain, Counter of_ipv6, bool were_held) {
  while (chain != nullptr) {
    const Reassembly::Part part = *packet::priv<Reassembly::Part>(chain);
    if (were_held) ctx.counters.sub(held(part.ipv4));
    ctx.count(Reassembly::reason(part.ipv4, of_ipv6));
    rte_pktmbuf_free(chain);
    chain = part.next;
  }
}

bool tell_timeout(Context& ctx, rte_mbuf* first, const Reassembly::Part& part) {
  if (!part.ipv4) return send_icmp6_error(ctx, first, {icmp6::kTimeExceeded, 1, 0}, false);
  Softwire via;
  if (part.at != 0) via = {ipv6::source(packet::data(first)), ipv6::destination(packet::data(first))};
  packet::pull(first, part.at);
  return send_icmp4_error(ctx, first, {icmp4::kTimeExceeded, 1, 0, Counter::icmp4_sent_ttl},
                          part.at != 0 ? &via : nullptr);
}

}  // namespace

bool put_together(Context& ctx, Item& item, const Reassembly::Fragment& fragment, std::uint64_t sender) {
  const bool ipv4 = fragment.key.ipv4;
  const auto outcome =
      ctx.reassembly.add(item.frame, fragment, hash::mix(ctx.shared.secret, sender), ctx.now_ns,
                         [&](rte_mbuf* chain) { drop_parts(ctx, chain, Counter::drop_fragment_v6_limit, true); });
  if (ctx.reassembly.pressure()) ctx.count(Counter::reassembly_pressure);
  switch (outcome.result) {
    case Reassembly::Result::waits:
      ctx.end(held(ipv4));
      item.frame = nullptr;
      return false;
    case Reassembly::Result::refused:
      drop_parts(ctx, outcome.condemned, outcome.reason, true);
      drop(ctx, item, outcome.reason);
      return false;
    case Reassembly::Result::whole:
      break;
  }
  ctx.counters.sub(held(ipv4), outcome.parts - 1);
  item.frame = outcome.packet;
  if (outcome.packet == nullptr) {
    drop_parts(ctx, outcome.condemned, outcome.reason, false);
    return false;
  }
  ctx.count(Counter::reassembled_fragment, outcome.parts - 1);
  ctx.count(Counter::reassembled);
  if (packet::gather(item.frame)) return true;
  drop(ctx, item, Counter::drop_no_buffer);
  return false;
}

// The offset-0 fragment is the first in the chain if it came: then its sender is told (DP-166, RFC 1122 section 3.3.2).
void reassembly_timed_out(Context& ctx, rte_mbuf* chain, bool tell) {
  if (chain == nullptr) return;
  const Reassembly::Part first = *packet::priv<Reassembly::Part>(chain);
  if (tell && first.start == 0) {
    ctx.counters.sub(held(first.ipv4));
    ctx.count(Reassembly::reason(first.ipv4, Counter::drop_fragment_v6_timeout));
    if (!tell_timeout(ctx, chain, first)) rte_pktmbuf_free(chain);
    chain = first.next;
  }
  drop_parts(ctx, chain, Counter::drop_fragment_v6_timeout, true);
}

}  // namespace lw
