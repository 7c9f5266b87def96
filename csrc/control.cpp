// The control side's packets: requests and events out to it (punt_ring.hpp), its own packets in.
#include "stage.hpp"

namespace lw {

namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint32_t kEventOctets = packet::kWindow;  // all headers of a packet end within
constexpr Rate kEvents{1000, kSecond};                   // of the whole router
constexpr std::uint64_t kEventInterval = 1 * kSecond;    // of one subscriber

bool hand_over(Context& ctx, const rte_mbuf* frame, PuntKind kind, std::uint32_t octets) {
  std::uint8_t* room = ctx.punts != nullptr ? ctx.punts->begin(octets) : nullptr;
  if (room == nullptr) return false;
  packet::copy_out(frame, 0, room, octets);
  ctx.punts->commit({kind, ctx.now_ns});
  return true;
}

std::uint64_t subscriber_key(const Context& ctx, const Ipv6& b4) {
  return hash::mix(hash::subscriber(b4, ctx.settings.subscriber_mask), ctx.shared.secret);
}

// RFC 7785: the binding's B4 has another address of its prefix now.
bool moved(const Context& ctx, const Item& item, const Softwire& outer) {
  return item.softwire != nullptr && item.softwire->br == outer.br &&
         hash::prefix_equal(item.softwire->b4, outer.b4, ctx.settings.subscriber_mask);
}

}  // namespace

void punt_pcp(Context& ctx, Item& item) {
  const std::uint32_t octets = packet::length(item.frame);
  if (octets > kMostPunted) return drop(ctx, item, Counter::drop_punt_too_long);
  // The subscriber's own limit first: a flood of his takes nothing from the others.
  const std::uint64_t subscriber = subscriber_key(ctx, ipv6::source(packet::data(item.frame)));
  const bool within = ctx.shared.pcp_sources.take(subscriber, ctx.settings.pcp_per_subscriber, ctx.now_ns) &&
                      ctx.shared.pcp_requests.take(ctx.settings.pcp_rate, ctx.now_ns);
  if (!within) return drop(ctx, item, Counter::drop_punt_rate);
  if (!hand_over(ctx, item.frame, PuntKind::pcp, octets)) return drop(ctx, item, Counter::drop_punt_queue);
  consume(ctx, item, Counter::punt_pcp);
}

bool report_unmatched(Context& ctx, const Item& item) {
  const Settings& settings = ctx.settings;
  if (!settings.miss_events && !settings.move_events) return false;
  const Softwire outer = softwire_of(item);
  const bool move = settings.move_events && moved(ctx, item, outer);
  if (!move && !settings.miss_events) return false;
  const std::uint64_t subscriber = subscriber_key(ctx, outer.b4);
  const std::uint64_t hold = settings.hold_code5_ns;
  // Of the time between two events at least half is not under hold: who stays unknown is told in the end.
  const std::uint64_t interval = std::max(kEventInterval, 2 * hold);
  SourceTimes& events = ctx.shared.event_sources;
  if (events.since(subscriber, ctx.now_ns) >= interval) {
    if (!ctx.shared.events.take(kEvents, ctx.now_ns)) return false;
    const std::uint32_t octets = std::min(packet::window(item.frame), kEventOctets);
    if (!hand_over(ctx, item.frame, move ? PuntKind::move : PuntKind::miss, octets)) {
      ctx.count(Counter::punt_event_lost);
      return false;
    }
    ctx.count(move ? Counter::punted_move : Counter::punted_miss);
    events.note(subscriber, ctx.now_ns);
  }
  return events.since(subscriber, ctx.now_ns) < hold;
}

void send_injected(Context& ctx) {
  if (ctx.injects == nullptr) return;
  InjectRing::Record record;
  for (unsigned n = 0; n < Lane::kBurst && ctx.injects->front(record); ++n) {
    rte_mbuf* frame = rte_pktmbuf_alloc(ctx.pool);
    if (frame == nullptr) return;  // it stays in the ring
    packet::fill(frame, record.octets, static_cast<std::uint16_t>(record.length));
    ctx.injects->pop();
    ctx.count(Counter::injected);
    send_made(ctx, frame, SideId::v6);
  }
}

}  // namespace lw
