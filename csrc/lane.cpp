// The order of the stages: this file alone knows it.
#include "lane.hpp"

#include <bit>
#include <memory>

#include "announce.hpp"
#include "fragment_ports.hpp"
#include "plain.hpp"
#include "reassembly.hpp"
#include "stage.hpp"
#include "tap.hpp"
#include "transmit.hpp"

namespace lw {

namespace {
// Each burst has its keys looked up at once; those who wait for a first fragment run in bursts of their own.
struct Burst {
  std::array<Item, Lane::kBurst> items;
  std::array<BindingKey, Lane::kBurst> keys;
  std::array<Softwire, Lane::kBurst> softwires;
  std::array<std::uint8_t, Lane::kBurst> key_of;  // item of a key
};

}  // namespace

struct Lane::Inside {
  explicit Inside(const Parts& parts)
      : index(parts.index),
        out(parts.sink),
        fragment_ports(parts.settings.fragments.max_packets, parts.held_limit, parts.settings.fragments.v4_hold_ns),
        reassembly(parts.settings.fragments, parts.held_limit),
        ctx{parts.settings,         parts.table, parts.shared, parts.counters, parts.pool,     out,
            fragment_ports,         reassembly,  parts.punts,  parts.injects,  parts.offloads, parts.table.accounts(),
            parts.table.open_book()},
        plain(parts.settings) {}

  unsigned index;
  Transmitter out;
  FragmentPorts fragment_ports;
  Reassembly reassembly;
  Context ctx;
  Announcer announcer;
  PlainWay plain;
  Burst burst;
  Burst again;  // one packet that turned out not to be plain
  Burst followers;
  rte_mbuf* following{};  // chain of fragments whose first one has gone
  rte_mbuf** following_end{&following};

  void look_up(Burst& at, unsigned n);
  void look_up_accounts(Burst& at, unsigned keys);
  bool short_way() const;
  void act(Burst& at, unsigned n);
  bool parse(Item& item, PortRole role);
  unsigned parse_rest(PortRole role, rte_mbuf** frames, unsigned n, std::uint64_t& rest);
  void act_all(PortRole role, rte_mbuf** frames, unsigned n, std::uint64_t plain_ones, std::uint64_t rest);
  void the_long_way(PortRole role, rte_mbuf* frame);
  void act(Item& item);
  void do_other(Item& item);
  LinkResult start(Item& item, PortRole role);
  void ended(Item& item);
  void run_following();
  void finish();
  void crank(std::uint64_t now_ns);
  void adopt(const Settings& settings);
};

void Lane::Inside::look_up(Burst& at, unsigned n) {
  unsigned keys = 0;
  for (unsigned i = 0; i < n; ++i) {
    if (!at.items[i].lookup) continue;
    at.keys[keys] = at.items[i].key;
    at.key_of[keys++] = static_cast<std::uint8_t>(i);
  }
  if (keys == 0) return;
  if (ctx.accounts != nullptr) [[unlikely]] {
    look_up_accounts(at, keys);
  }
  const std::uint64_t found = ctx.table.find_bulk(at.keys.data(), keys, at.softwires.data());
  for (unsigned k = 0; k < keys; ++k) {
    if ((found >> k & 1) != 0) at.items[at.key_of[k]].softwire = &at.softwires[k];
  }
}

// A tap has to see each packet at each step, which only the stages show. The short way counts by binding when a run of
// packets is queued: what a filter then refuses it would not know.
bool Lane::Inside::short_way() const {
  const bool filtered = ctx.settings.v4.egress_filter != nullptr || ctx.settings.v6.egress_filter != nullptr;
  return ctx.tap == nullptr && (ctx.book == nullptr || !filtered);
}

void Lane::Inside::look_up_accounts(Burst& at, unsigned keys) {
  std::array<std::uint64_t, kBurst> words{};
  std::array<BindingAccounts::Number, kBurst> numbers;
  for (unsigned k = 0; k < keys; ++k) words[k] = at.keys[k].packed();
  ctx.accounts->find_bulk(words.data(), keys, numbers.data());
  for (unsigned k = 0; k < keys; ++k) {
    at.items[at.key_of[k]].account = numbers[k];
    __builtin_prefetch(&ctx.book[numbers[k]], 1);
  }
}

void Lane::Inside::do_other(Item& item) {
  switch (item.task) {
    case Task::forward:
      break;
    case Task::refuse6:
      return refuse6(ctx, item, item.refusal, item.error);
    case Task::local4:
      return local4(ctx, item);
    case Task::punt:
      return punt_pcp(ctx, item);
    case Task::icmp6:
      return icmp6_received(ctx, item);
    case Task::ndp:
      ndp_received(ctx, item);
      return refresh_links(ctx);  // for the packets behind it
    case Task::multicast:
      multicast_received(ctx, item);
      return refresh_links(ctx);
    case Task::arp:
      arp_received(ctx, item);
      return refresh_links(ctx);
  }
}

void Lane::Inside::act(Item& item) {
  if (item.task != Task::forward) [[unlikely]] {
    do_other(item);
  } else if (item.side == SideId::v4) {
    encap(ctx, item);
  } else {
    decap(ctx, item);
  }
  ended(item);
}

void Lane::Inside::act(Burst& at, unsigned n) {
  for (unsigned i = 0; i < n; ++i) act(at.items[i]);
}

// The parse pass of one packet. False: it has ended.
bool Lane::Inside::parse(Item& item, PortRole role) {
  switch (start(item, role)) {
    case LinkResult::ipv4:
      return parse4(ctx, item);
    case LinkResult::ipv6:
      return parse6(ctx, item);
    case LinkResult::arp:
      item.task = Task::arp;
      return true;
    case LinkResult::ended:
      break;
  }
  return false;
}

// The frames that are not plain; afterwards `rest` has those that go on, and their items come in the same order.
unsigned Lane::Inside::parse_rest(PortRole role, rte_mbuf** frames, unsigned n, std::uint64_t& rest) {
  unsigned going = 0;
  for (unsigned i = 0; i < n; ++i) {
    const std::uint64_t bit = std::uint64_t{1} << i;
    if ((rest & bit) == 0) continue;
    Item& item = burst.items[going] = Item{};
    item.frame = frames[i];
    if (parse(item, role)) {
      ++going;
    } else {
      rest &= ~bit;
      ended(item);
    }
  }
  return going;
}

// A packet that looked plain and is not.
void Lane::Inside::the_long_way(PortRole role, rte_mbuf* frame) {
  Item& item = again.items[0] = Item{};
  item.frame = frame;
  if (!parse(item, role)) return ended(item);
  look_up(again, 1);
  act(item);
}

// The act pass, in the order of arrival.
void Lane::Inside::act_all(PortRole role, rte_mbuf** frames, unsigned n, std::uint64_t plain_ones, std::uint64_t rest) {
  unsigned acted = 0, items = 0;
  for (unsigned i = 0; i < n;) {
    const std::uint64_t from_here = plain_ones >> i;
    if (const auto run = static_cast<unsigned>(std::countr_one(from_here)); run > 0) {
      const unsigned stopped = plain.act(ctx, acted, acted + run);
      i += stopped - acted;
      if (stopped != acted + run) {
        the_long_way(role, frames[i++]);
        acted = stopped + 1;
      } else {
        acted = stopped;
      }
      continue;
    }
    if ((rest >> i & 1) != 0) act(burst.items[items++]);
    ++i;
  }
}

LinkResult Lane::Inside::start(Item& item, PortRole role) {
  if (ctx.tap != nullptr) [[unlikely]] {
    item.side = role == PortRole::v6 ? SideId::v6 : SideId::v4;
    ctx.tap->received(item);
  }
  return read_link(ctx, item, role);
}

// The fragments that waited for this one share its fate.
void Lane::Inside::ended(Item& item) {
  if (ctx.tap != nullptr) [[unlikely]] {
    ctx.tap->ended(item, ctx.last_end);
  }
  if (item.followers == nullptr) return;
  if (item.passed) {
    *following_end = item.followers;
    while (*following_end != nullptr) following_end = &packet::priv<Waiting>(*following_end)->next;
    return;
  }
  for (rte_mbuf* one = item.followers; one != nullptr;) {
    rte_mbuf* next = packet::priv<Waiting>(one)->next;
    ctx.count(Counter::drop_fragment_v4_timeout);
    rte_pktmbuf_free(one);
    one = next;
  }
}

void Lane::Inside::run_following() {
  while (following != nullptr) {
    unsigned n = 0;
    while (following != nullptr && n < kBurst) {
      rte_mbuf* frame = following;
      const Waiting waiting = *packet::priv<Waiting>(frame);
      following = waiting.next;
      Item& item = followers.items[n] = Item{};
      item.frame = frame;
      item.side = waiting.side;
      if (waiting.side == SideId::v4 ? parse4(ctx, item) : parse6(ctx, item)) {
        ++n;
      } else {
        ended(item);
      }
    }
    if (following == nullptr) following_end = &following;
    look_up(followers, n);
    act(followers, n);
  }
}

void Lane::Inside::crank(std::uint64_t now_ns) {
  if (index != 0) return;
  if (const auto ask = ctx.shared.v4.step(now_ns); ask != Neighbor::Ask::nothing) {
    const Mac mac = ctx.shared.v4.mac();
    send_arp_request(ctx, ctx.settings.v4_addresses.front().address, ctx.settings.v4_next_hop,
                     ask == Neighbor::Ask::direct ? &mac : nullptr);
  }
  if (const auto ask = ctx.shared.v6.step(now_ns); ask != Neighbor::Ask::nothing) {
    const Mac mac = ctx.shared.v6.mac();
    send_solicitation(ctx, ask == Neighbor::Ask::direct ? &mac : nullptr);
  }
}

void Lane::Inside::finish() {
  if (out.waiting[0].n + out.waiting[1].n != 0) {
    refresh_links(ctx);
    serve_waiting(ctx);
    crank(ctx.now_ns);
  }
  flush(ctx);
}

// Stages read their settings through a reference, so the context is made anew around them.
void Lane::Inside::adopt(const Settings& settings) {
  const Context old = ctx;
  std::destroy_at(&ctx);
  std::construct_at(&ctx, Context{.settings = settings,
                                  .table = old.table,
                                  .shared = old.shared,
                                  .counters = old.counters,
                                  .pool = old.pool,
                                  .out = out,
                                  .fragment_ports = fragment_ports,
                                  .reassembly = reassembly,
                                  .punts = old.punts,
                                  .injects = old.injects,
                                  .offloads = old.offloads,
                                  .accounts = old.accounts,
                                  .book = old.book,
                                  .now_ns = old.now_ns,
                                  .tap = old.tap,
                                  .last_end = old.last_end});
  reassembly.adopt(settings.fragments);
  plain.use(settings);
}

Lane::Lane(const Parts& parts) : inside_(std::make_unique<Inside>(parts)), injects_(parts.injects) {}

Lane::~Lane() { drop_held(); }

void Lane::receive(PortRole role, rte_mbuf** frames, unsigned n, std::uint64_t now_ns) {
  Inside& in = *inside_;
  Context& ctx = in.ctx;
  ctx.now_ns = now_ns;
  refresh_links(ctx);
#pragma GCC unroll 4
  for (unsigned i = 0; i < n; ++i) rte_prefetch0(rte_pktmbuf_mtod(frames[i], void*));
  const std::uint64_t plain = in.short_way() ? in.plain.read(ctx, role, frames, n) : 0;
  std::uint64_t rest = 0;
  if (plain != Lane::all_of(n)) {
    rest = ~plain & Lane::all_of(n);
    in.look_up(in.burst, in.parse_rest(role, frames, n, rest));
  }
  if (plain != 0) in.plain.locate(ctx);
  in.act_all(role, frames, n, plain, rest);
  in.run_following();
  in.finish();
}

void Lane::tick(std::uint64_t now_ns) {
  Inside& in = *inside_;
  Context& ctx = in.ctx;
  ctx.now_ns = now_ns;
  refresh_links(ctx);
  in.fragment_ports.expire(now_ns,
                           [&](rte_mbuf* chain) { drop_waiting(ctx, chain, Counter::drop_fragment_v4_timeout); });
  in.reassembly.expire(now_ns, [&](rte_mbuf* chain) { reassembly_timed_out(ctx, chain, true); });
  in.crank(now_ns);
  if (in.index == 0) in.announcer.step(ctx);
  refresh_links(ctx);
  serve_waiting(ctx);
  flush(ctx);
}

void Lane::send_injected(std::uint64_t now_ns) {
  Inside& in = *inside_;
  in.ctx.now_ns = now_ns;
  refresh_links(in.ctx);
  lw::send_injected(in.ctx);
  in.finish();
}

void Lane::adopt(const Settings& settings) { inside_->adopt(settings); }

void Lane::renew_next_hop(SideId side, std::uint64_t now_ns) {
  Context& ctx = inside_->ctx;
  const bool v4 = side == SideId::v4;
  (v4 ? ctx.shared.v4 : ctx.shared.v6).renew((v4 ? ctx.settings.v4 : ctx.settings.v6).next_hop_mac, now_ns);
}

void Lane::interface_up(std::uint64_t now_ns) {
  Inside& in = *inside_;
  if (in.index != 0) return;
  in.ctx.now_ns = now_ns;
  in.announcer.start(now_ns);
  in.ctx.shared.v4.start(now_ns);
  in.ctx.shared.v6.start(now_ns);
  in.announcer.step(in.ctx);
  flush(in.ctx);
}

void Lane::watch(Tap* tap) { inside_->ctx.tap = tap; }

bool Lane::quiescent() const { return inside_->out.waiting[0].n + inside_->out.waiting[1].n == 0; }

void Lane::drop_held() {
  Context& ctx = inside_->ctx;
  inside_->fragment_ports.clear([&](rte_mbuf* chain) { drop_waiting(ctx, chain, Counter::drop_fragment_v4_timeout); });
  inside_->reassembly.clear([&](rte_mbuf* chain) { reassembly_timed_out(ctx, chain, false); });
  drop_all_waiting(ctx);
}

}  // namespace lw
