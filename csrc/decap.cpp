// RFC 7596 section 6.2 and RFC 7597 section 8.1: only what one binding vouches for leaves a softwire.
#include "stage.hpp"

namespace lw {

namespace {

constexpr std::uint8_t kNotEct = 0, kEct1 = 1, kCe = 3;

struct Ecn {
  std::uint8_t result;
  bool dropped;
  bool suspicious;  // the marked cells of RFC 6040 figure 4
};

// RFC 6040 section 4.2: the more severe of the two, severity CE > ECT(1) > ECT(0) > Not-ECT, except for Not-ECT inside.
constexpr Ecn combine(std::uint8_t inside, std::uint8_t outside) {
  if (inside == kNotEct) return {kNotEct, outside == kCe, outside != kNotEct};
  if (inside == kCe) return {kCe, false, outside == kEct1};
  if (outside == kCe) return {kCe, false, false};
  const bool ect1 = inside == kEct1 || outside == kEct1;
  return {ect1 ? kEct1 : inside, false, inside == kEct1 && outside == 2};
}
static_assert(combine(0, 3).dropped && combine(2, 1).result == 1 && combine(1, 2).result == 1 &&
              combine(2, 0).result == 2);

bool valid(const Item& item) {
  if (item.softwire == nullptr) return false;
  const Softwire outer = softwire_of(item);
  return *item.softwire == outer;
}

void refuse_source(Context& ctx, Item& item) {
  if (report_unmatched(ctx, item)) {
    if (ctx.settings.icmp_unknown_b4_v6) ctx.count(Counter::icmp6_held_back);
    return drop(ctx, item, Counter::drop_source_validation);
  }
  if (!ctx.settings.icmp_unknown_b4_v6) return drop(ctx, item, Counter::drop_source_validation);
  refuse6(ctx, item, Counter::drop_source_validation, {icmp6::kUnreachable, 5, 0});
}

void to_internet(Context& ctx, Item& item, std::uint8_t tos) {
  std::uint8_t* ip = inner(item);
  const std::uint8_t ttl = ip[ipv4::kTtl];
  if (ttl <= 1) return refuse4(ctx, item, Counter::drop_ttl_expired, kTtlExpired);
  const std::uint16_t mtu = ctx.settings.v4.mtu;
  const bool split = ipv4::total_length(ip) > mtu;
  if (split && ipv4::dont_fragment(ip)) return refuse4(ctx, item, Counter::drop_too_big_df, too_big(mtu));
  const Origin origin{true, softwire_of(item)};
  ctx.tally.any = false;
  if (ctx.accounts != nullptr) ctx.tally = {true, Counter::count_, ipv4::total_length(ip), item.account, 0};
  take_ipv4(item);
  ip = packet::data(item.frame);
  rewrite_ttl_tos(ip, static_cast<std::uint8_t>(ttl - 1), tos);
  if (ctx.settings.tcp_mss != 0) clamp_mss(ctx, ip, packet::window(item.frame));
  rte_mbuf* frame = item.frame;
  item.frame = nullptr;
  item.passed = true;
  if (split) {
    split4(ctx, frame, mtu, Counter::decap, origin);
  } else {
    forward(ctx, frame, SideId::v4, Counter::decap, origin);
  }
}

void hairpin(Context& ctx, Item& item, std::uint8_t tos) {
  if (!make_key(ctx, item, Direction::downstream)) return;
  if (item.lookup && ctx.table.find(item.key, ctx.hairpin_to)) {
    item.softwire = &ctx.hairpin_to;
    ctx.hairpin_account = ctx.accounts != nullptr ? ctx.accounts->find(item.key.packed()) : 0;
    return into_softwire(ctx, item, ctx.hairpin_to, tos);
  }
  // DP-104: an address of the table never goes outward, it would come straight back.
  if (inner(item)[ipv4::kProtocol] == proto::kIcmp) return drop(ctx, item, Counter::drop_icmp_no_binding);
  if (!ctx.settings.icmp_unbound_v4) return drop(ctx, item, Counter::drop_no_binding);
  refuse4(ctx, item, Counter::drop_no_binding, kHostUnreachable);
}

}  // namespace

void decap(Context& ctx, Item& item) {
  if (!valid(item)) return refuse_source(ctx, item);
  const std::uint8_t* ip = inner(item);
  if (ipv4::header_length(ip) != ipv4::kHeader) {
    if (const Counter fault = check_ipv4_options(ctx.settings, ip); fault != Counter::count_)
      return drop(ctx, item, fault);
  }
  const Ipv4 destination = ipv4::destination(ip);
  if (martian_destination(destination) || (softwire_only(destination) && destination != kAftrIpv4)) {
    return drop(ctx, item, Counter::drop_v4_martian);
  }
  const std::uint8_t outer_class = ipv6::traffic_class(packet::data(item.frame));
  const std::uint8_t inner_tos = ip[ipv4::kTos];
  const Ecn ecn = combine(inner_tos & 3, outer_class & 3);
  if (ecn.suspicious) ctx.count(Counter::ecn_suspicious);
  if (ecn.dropped) return drop(ctx, item, Counter::drop_ecn_ce_on_not_ect);
  const std::uint8_t dscp_from = ctx.settings.dscp == DscpMode::pipe ? inner_tos : outer_class;
  const auto tos = static_cast<std::uint8_t>((dscp_from & 0xfc) | ecn.result);

  if (destination == kAftrIpv4 || is_own_ipv4(ctx.settings, destination)) return local4(ctx, item);
  if (ctx.settings.hairpin != Hairpin::external && ctx.table.classify(destination).use() != AddressUse::none) {
    if (ctx.settings.hairpin == Hairpin::drop) return drop(ctx, item, Counter::drop_hairpin_disabled);
    return hairpin(ctx, item, tos);
  }
  to_internet(ctx, item, tos);
}

}  // namespace lw
