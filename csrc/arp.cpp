// ARP: RFC 826 with the caution of RFC 1812 section 3.3.2 and the conflict rule of RFC 5227 section 2.4(c).
#include "stage.hpp"

namespace lw {

namespace {

constexpr std::uint16_t kPacket = 28, kRequest = 1, kReply = 2;
constexpr std::uint64_t kDefendIntervalNs = 10'000'000'000;
constexpr Mac kBroadcast{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};

struct Arp {
  std::uint16_t operation;
  Mac sender_mac;
  Ipv4 sender;
  Ipv4 target;
};

bool read(const rte_mbuf* frame, Arp& arp) {
  if (packet::window(frame) < kPacket) return false;
  const std::uint8_t* octets = packet::data(frame);
  constexpr std::uint16_t kEthernet = 1, kLengths = 0x0604;
  if (load16(octets) != kEthernet || load16(octets + 2) != ether::kIpv4 || load16(octets + 4) != kLengths) return false;
  arp = {load16(octets + 6), load<Mac>(octets + 8), load32(octets + 14), load32(octets + 24)};
  return arp.operation == kRequest || arp.operation == kReply;
}

void write(std::uint8_t* octets, std::uint16_t operation, const Mac& sender_mac, Ipv4 sender, const Mac& target_mac,
           Ipv4 target) {
  store16(octets, 1);
  store16(octets + 2, ether::kIpv4);
  store16(octets + 4, 0x0604);
  store16(octets + 6, operation);
  store(octets + 8, sender_mac);
  store32(octets + 14, sender);
  store(octets + 18, target_mac);
  store32(octets + 24, target);
}

void conflict(Context& ctx, Ipv4 address) {
  ctx.count(Counter::address_conflict);
  auto& seen = ctx.shared.conflict_seen_ns[hash::mix(address, 0) % ctx.shared.conflict_seen_ns.size()];
  const std::uint64_t before = seen.exchange(ctx.now_ns + 1, std::memory_order_relaxed);
  if (before == 0 || ctx.now_ns + 1 - before >= kDefendIntervalNs) send_arp_request(ctx, address, address, nullptr);
}

bool answers_for(const Context& ctx, Ipv4 address) {
  if (is_own_ipv4(ctx.settings, address)) return true;
  return ctx.settings.proxy_arp && ctx.table.classify(address).use() != AddressUse::none;
}

void answer(Context& ctx, Item& item, const Arp& arp) {
  packet::cut(item.frame, kPacket);
  write(packet::data(item.frame), kReply, ctx.settings.v4.mac, arp.target, arp.sender_mac, arp.sender);
  ctx.end(Counter::answered_arp);
  send_made_to(ctx, item.frame, SideId::v4, ether::kArp, arp.sender_mac);
  item.frame = nullptr;
}

}  // namespace

void arp_received(Context& ctx, Item& item) {
  Arp arp;
  if (!read(item.frame, arp)) return drop(ctx, item, Counter::drop_arp_malformed);
  if (arp.sender_mac.is_group()) return drop(ctx, item, Counter::drop_arp_bad_sender);
  if (is_own_ipv4(ctx.settings, arp.sender)) {
    if (arp.sender_mac != ctx.settings.v4.mac) conflict(ctx, arp.sender);
    return consume(ctx, item, Counter::consumed_arp);
  }
  if (arp.sender != 0 && arp.sender == ctx.settings.v4_next_hop) {
    const bool answers_us = arp.operation == kReply && is_own_ipv4(ctx.settings, arp.target);
    ctx.shared.v4.learn(arp.sender_mac, answers_us, ctx.now_ns);
  }
  if (arp.operation != kRequest) return consume(ctx, item, Counter::consumed_arp);
  if (!answers_for(ctx, arp.target)) return drop(ctx, item, Counter::drop_arp_not_ours);
  answer(ctx, item, arp);
}

void send_arp_request(Context& ctx, Ipv4 sender, Ipv4 target, const Mac* direct) {
  rte_mbuf* frame = rte_pktmbuf_alloc(ctx.pool);
  if (frame == nullptr) return ctx.count(Counter::tx_failed);
  auto* octets = reinterpret_cast<std::uint8_t*>(rte_pktmbuf_append(frame, kPacket));
  write(octets, kRequest, ctx.settings.v4.mac, sender, {}, target);
  send_made_to(ctx, frame, SideId::v4, ether::kArp, direct != nullptr ? *direct : kBroadcast, Counter::arp_sent);
}

}  // namespace lw
