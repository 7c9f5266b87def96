// MLDv2 report of the groups we listen to (RFC 4861 section 7.2.1 with RFC 3810): all solicited-node groups of our own.
// Its source is unspecified: the interface has no link-local address (RFC 3590).
#include <algorithm>

#include "checksum.hpp"
#include "stage.hpp"

namespace lw {

namespace {
constexpr std::uint8_t kQuery = 130, kReport = 143, kIsExclude = 2, kChangeToExclude = 4;
constexpr std::uint16_t kHopByHop = 8, kReportHeader = 8, kRecord = 20;
constexpr Ipv6 kAllMldRouters{Be<std::uint64_t>{0xff02000000000000}.raw(), Be<std::uint64_t>{0x16}.raw()};
constexpr std::size_t kMaxGroups = 60;  // one packet of 1280 octets

std::vector<Ipv6> groups_of(const Settings& settings) {
  std::vector<Ipv6> groups;
  const auto add = [&groups](const Ipv6& address) {
    const Ipv6 group = ipv6::solicited_node(address);
    if (std::ranges::find(groups, group) == groups.end() && groups.size() < kMaxGroups) groups.push_back(group);
  };
  for (const Address6& own : settings.v6_addresses) add(own.address);
  for (const Ipv6& br : settings.br_addresses) add(br);
  return groups;
}
// Queries come every two minutes (RFC 3810 section 9.2); whoever sends more gets no more answers.
constexpr Rate kAnswers{4, 4'000'000'000};
}  // namespace

bool is_mld_query(const Item& item) {
  const std::uint8_t* ip = packet::data(item.frame);
  constexpr std::uint32_t kMessageAt = ipv6::kHeader + kHopByHop;
  return packet::window(item.frame) >= kMessageAt + icmp6::kHeader && ip[ipv6::kNextHeader] == proto::kHopByHop &&
         ip[ipv6::kHeader] == proto::kIcmp6 && ip[ipv6::kHeader + 1] == 0 && ip[kMessageAt] == kQuery;
}

void mld_query_received(Context& ctx, Item& item) {
  const std::uint8_t* ip = packet::data(item.frame);
  const std::uint32_t at = ipv6::kHeader + kHopByHop, length = packet::length(item.frame) - at;
  const std::uint64_t pseudo = checksum::pseudo6(ip + ipv6::kSource, length, proto::kIcmp6);
  if (!checksum::good(checksum::sum(item.frame, at, length, pseudo))) {
    return drop(ctx, item, Counter::drop_icmp6_bad_checksum);
  }
  // RFC 3810 section 6.2: queries come from link-local addresses, with hop limit 1.
  if (ip[ipv6::kHopLimit] != 1 || ip[ipv6::kSource] != 0xfe) return drop(ctx, item, Counter::drop_icmp6_ignored);
  if (!ctx.shared.mld_answers.take(kAnswers, ctx.now_ns)) return drop(ctx, item, Counter::drop_icmp6_ignored);
  consume(ctx, item, Counter::answered_mld);
  send_mld_report(ctx, true);
}

void send_mld_report(Context& ctx, bool asked) {
  rte_mbuf* frame = rte_pktmbuf_alloc(ctx.pool);
  if (frame == nullptr) return ctx.count(Counter::tx_failed);
  const std::vector<Ipv6> groups = groups_of(ctx.settings);
  const auto report = static_cast<std::uint16_t>(kReportHeader + kRecord * groups.size());
  const auto length = static_cast<std::uint16_t>(ipv6::kHeader + kHopByHop + report);
  auto* ip = reinterpret_cast<std::uint8_t*>(rte_pktmbuf_append(frame, length));
  std::memset(ip, 0, length);
  store32(ip, 0x60000000U);
  store16(ip + ipv6::kPayloadLength, static_cast<std::uint16_t>(length - ipv6::kHeader));
  ip[ipv6::kNextHeader] = proto::kHopByHop;
  ip[ipv6::kHopLimit] = 1;
  store(ip + ipv6::kDestination, kAllMldRouters);
  // Router alert for MLD (RFC 2711), then PadN.
  store(ip + ipv6::kHeader, std::array<std::uint8_t, kHopByHop>{proto::kIcmp6, 0, 5, 2, 0, 0, 1, 0});
  std::uint8_t* icmp = ip + ipv6::kHeader + kHopByHop;
  icmp[0] = kReport;
  store16(icmp + 6, static_cast<std::uint16_t>(groups.size()));
  for (std::size_t i = 0; i < groups.size(); ++i) {
    icmp[kReportHeader + kRecord * i] = asked ? kIsExclude : kChangeToExclude;
    store(icmp + kReportHeader + kRecord * i + 4, groups[i]);
  }
  store(icmp + 2,
        checksum::field(checksum::sum(icmp, report, checksum::pseudo6(ip + ipv6::kSource, report, proto::kIcmp6))));
  send_made_to(ctx, frame, SideId::v6, ether::kIpv6, {{0x33, 0x33, 0, 0, 0, 0x16}}, Counter::ndp_sent);
}

}  // namespace lw
