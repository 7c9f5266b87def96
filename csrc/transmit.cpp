#include "transmit.hpp"

#include "filter.hpp"
#include "tap.hpp"

namespace lw {

namespace {

const Side& side_settings(const Context& ctx, SideId side) {
  return side == SideId::v4 ? ctx.settings.v4 : ctx.settings.v6;
}
Neighbor& next_hop(Context& ctx, SideId side) { return side == SideId::v4 ? ctx.shared.v4 : ctx.shared.v6; }
constexpr std::uint16_t ethertype_of(SideId side) { return side == SideId::v4 ? ether::kIpv4 : ether::kIpv6; }

std::uint8_t write_link_header(std::uint8_t* at, const Side& side, const Mac& to, std::uint16_t ethertype) {
  store(at, to);
  store(at + 6, side.mac);
  std::uint8_t* type = at + 12;
  if (side.vlan) {
    store16(type, ether::kVlan);
    store16(type + 2, *side.vlan);  // priority 0 (spec 4.16)
    type += ether::kTag;
  }
  store16(type, ethertype);
  return static_cast<std::uint8_t>(type + 2 - at);
}

// The port takes frames of so many buffers only: a copy in one. Fragments and what was reassembled come in more.
void make_compact(Context& ctx, Transmitter::Queue& queue, std::uint16_t most) {
  std::uint16_t kept = 0;
  for (std::uint16_t i = 0; i < queue.n; ++i) {
    rte_mbuf* frame = queue.frames[i];
    if (frame->nb_segs > most) {
      rte_mbuf* compact = rte_pktmbuf_copy(frame, ctx.pool, 0, UINT32_MAX);
      const std::uint32_t octets = packet::length(frame);
      rte_pktmbuf_free(frame);
      if (compact == nullptr || compact->nb_segs > most) {
        ctx.count(Counter::tx_failed);
        queue.octets -= octets;
        rte_pktmbuf_free(compact);
        continue;
      }
      frame = compact;
    }
    queue.frames[kept++] = frame;
  }
  queue.n = kept;
  queue.widest = 1;
}

void flush_side(Context& ctx, SideId side) {
  auto& queue = ctx.out.queue(side);
  if (queue.n == 0) return;
  const std::uint16_t most = ctx.offloads[static_cast<unsigned>(side)].max_segments;
  if (queue.widest > most) [[unlikely]] {
    make_compact(ctx, queue, most);
  }
  if (ctx.tap != nullptr) [[unlikely]] {
    for (std::uint16_t i = 0; i < queue.n; ++i) ctx.tap->sent(side, queue.frames[i]);
  }
  std::uint64_t octets = queue.octets;  // a sent frame may be gone
  const std::uint16_t sent = ctx.out.sink.send(side, queue.frames.data(), queue.n);
  for (std::uint16_t i = sent; i < queue.n; ++i) {
    octets -= packet::length(queue.frames[i]);
    rte_pktmbuf_free(queue.frames[i]);
  }
  const bool v4 = side == SideId::v4;
  ctx.count(v4 ? Counter::tx_v4 : Counter::tx_v6, sent);
  ctx.count(v4 ? Counter::tx_v4_bytes : Counter::tx_v6_bytes, octets);
  ctx.count(Counter::tx_failed, queue.n - sent);
  queue.n = 0;
  queue.octets = 0;
}

[[gnu::noinline]] void count_tally(Context& ctx, Counter edge) {
  const Tally& tally = ctx.tally;
  if (tally.sent != Counter::count_) ctx.count(tally.sent);
  if (edge == Counter::hairpin) ctx.count(Counter::hairpin_bytes, tally.octets);
  if (ctx.book == nullptr) return;
  if (tally.from != 0) ctx.book[tally.from].add(Account::out, tally.octets);
  if (tally.to != 0) ctx.book[tally.to].add(Account::in, tally.octets);
}

// The frame is finished. `edge` as in forward, count_ for what was made here.
void leave(Context& ctx, rte_mbuf* frame, SideId side, Counter edge) {
  const bool made = edge == Counter::count_;
  const Side& settings = side_settings(ctx, side);
  if (settings.egress_filter != nullptr && !passes_untagged(*settings.egress_filter, frame)) [[unlikely]] {
    if (made) {
      ctx.count(Counter::filtered_made);
    } else {
      ctx.end(Counter::drop_filter_out);
    }
    return rte_pktmbuf_free(frame);
  }
  if (!made) ctx.end(edge);
  if (ctx.tally.any) [[unlikely]] {
    count_tally(ctx, edge);
  }
  enqueue(ctx, frame, side);
}

void put_on_link(Context& ctx, rte_mbuf* frame, SideId side, Counter edge) {
  const auto& link = ctx.out.link(side);
  std::memcpy(packet::push(frame, link.length), link.header.data(), link.length);
  leave(ctx, frame, side, edge);
}

std::uint64_t account_reuses(const Context& ctx) { return ctx.accounts != nullptr ? ctx.accounts->reuses() : 0; }

void wait_for_next_hop(Context& ctx, rte_mbuf* frame, SideId side, Counter edge, const Origin& origin) {
  auto& waits = ctx.out.waits(side);
  Neighbor& neighbor = next_hop(ctx, side);
  neighbor.want();
  if (waits.n == Transmitter::kWaiting) {
    if (edge == Counter::count_) {
      ctx.count(Counter::made_unresolved);
    } else {
      ctx.end(Counter::drop_next_hop_queue);
    }
    rte_pktmbuf_free(frame);
    return;
  }
  if (edge != Counter::count_) ctx.end(Counter::held_next_hop);
  waits.packets[waits.n++] = {frame, edge, origin, ctx.tally, neighbor.failed_rounds(), account_reuses(ctx)};
}

// DP-203: the next hop did not answer. A packet out of a softwire draws 3/1 into it.
void give_up(Context& ctx, SideId side, Transmitter::Waiting& waiting) {
  if (waiting.edge == Counter::count_) {
    ctx.count(Counter::made_unresolved);
    rte_pktmbuf_free(waiting.frame);
    return;
  }
  ctx.counters.sub(Counter::held_next_hop);
  ctx.count(Counter::drop_next_hop_unresolved);
  const bool tell = side == SideId::v4 && waiting.origin.softwire_known;
  if (!tell || !send_icmp4_error(ctx, waiting.frame, kHostUnreachable, &waiting.origin.softwire)) {
    rte_pktmbuf_free(waiting.frame);
  }
}

void serve_side(Context& ctx, SideId side) {
  auto& waits = ctx.out.waits(side);
  if (waits.n == 0) return;
  Neighbor& neighbor = next_hop(ctx, side);
  const bool resolved = ctx.out.link(side).resolved;
  const std::uint32_t rounds = neighbor.failed_rounds();
  const std::uint16_t n = waits.n;
  std::uint16_t kept = 0;
  for (std::uint16_t i = 0; i < n; ++i) {
    Transmitter::Waiting waiting = waits.packets[i];
    if (resolved) {
      if (waiting.edge != Counter::count_) ctx.counters.sub(Counter::held_next_hop);
      ctx.tally = waiting.tally;
      if (waiting.account_reuses != account_reuses(ctx)) ctx.tally.from = ctx.tally.to = 0;
      put_on_link(ctx, waiting.frame, side, waiting.edge);
    } else if (waiting.failed_rounds != rounds) {
      give_up(ctx, side, waiting);
    } else {
      waits.packets[kept++] = waiting;
    }
  }
  waits.n = kept;
}

void refresh_link(Context& ctx, SideId side) {
  auto& link = ctx.out.link(side);
  const Neighbor& neighbor = next_hop(ctx, side);
  link.resolved = neighbor.resolved();
  if (!link.resolved) return;
  link.length = write_link_header(link.header.data(), side_settings(ctx, side), neighbor.mac(), ethertype_of(side));
}

}  // namespace

void forward(Context& ctx, rte_mbuf* frame, SideId side, Counter edge, const Origin& origin) {
  if (!ctx.out.link(side).resolved) [[unlikely]] {
    return wait_for_next_hop(ctx, frame, side, edge, origin);
  }
  put_on_link(ctx, frame, side, edge);
}

void send_made(Context& ctx, rte_mbuf* frame, SideId side, Counter sent) {
  ctx.tally = {true, sent, 0, 0, 0};
  if (!ctx.out.link(side).resolved) return wait_for_next_hop(ctx, frame, side, Counter::count_, {});
  put_on_link(ctx, frame, side, Counter::count_);
}

void send_made_to(Context& ctx, rte_mbuf* frame, SideId side, std::uint16_t ethertype, const Mac& to, Counter sent) {
  const Side& settings = side_settings(ctx, side);
  const auto length = static_cast<std::uint16_t>(ether::kHeader + (settings.vlan ? ether::kTag : 0));
  write_link_header(packet::push(frame, length), settings, to, ethertype);
  ctx.tally = {true, sent, 0, 0, 0};
  leave(ctx, frame, side, Counter::count_);
}

void refresh_links(Context& ctx) {
  refresh_link(ctx, SideId::v4);
  refresh_link(ctx, SideId::v6);
}

void serve_waiting(Context& ctx) {
  serve_side(ctx, SideId::v4);
  serve_side(ctx, SideId::v6);
}

void flush(Context& ctx) {
  for (const SideId side : {SideId::v4, SideId::v6}) {
    if (ctx.out.queue(side).n > 0 && ctx.out.link(side).resolved) next_hop(ctx, side).used();
    flush_side(ctx, side);
  }
}

void drop_all_waiting(Context& ctx) {
  for (const SideId side : {SideId::v4, SideId::v6}) {
    auto& waits = ctx.out.waits(side);
    for (std::uint16_t i = 0; i < waits.n; ++i) {
      const bool received = waits.packets[i].edge != Counter::count_;
      if (received) ctx.counters.sub(Counter::held_next_hop);
      ctx.count(received ? Counter::drop_next_hop_unresolved : Counter::made_unresolved);
      rte_pktmbuf_free(waits.packets[i].frame);
    }
    waits.n = 0;
  }
}

}  // namespace lw
