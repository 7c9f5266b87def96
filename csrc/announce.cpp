#include "announce.hpp"

#include <algorithm>

namespace lw {

namespace {
constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr unsigned kArpAnnouncements = 2, kAdvertisements = 3, kReports = 2;
constexpr std::uint64_t kArpInterval = 2 * kSecond;                                 // RFC 5227 section 1.1
constexpr std::uint64_t kAdvertisementInterval = 1 * kSecond;                       // RFC 4861 section 7.2.6: at least
constexpr std::uint64_t kReportDelay = kSecond / 2, kReportInterval = 1 * kSecond;  // RFC 3810 section 9.11

// A BR address inside the prefix of an interface address, and not the same as one: it is on the link too.
bool on_link(const Settings& settings, const Ipv6& br) {
  const auto same = [&](const Address6& own) { return own.address == br; };
  const auto inside = [&](const Address6& own) { return hash::prefix_equal(br, own.address, own.prefix_len); };
  return std::ranges::any_of(settings.v6_addresses, inside) && std::ranges::none_of(settings.v6_addresses, same);
}

void advertise(Context& ctx) {
  for (const Address6& own : ctx.settings.v6_addresses) send_unsolicited_advertisement(ctx, own.address);
  for (const Ipv6& br : ctx.settings.br_addresses) {
    if (on_link(ctx.settings, br)) send_unsolicited_advertisement(ctx, br);
  }
}

}  // namespace

void Announcer::start(std::uint64_t now_ns) {
  running_ = true;
  started_ns_ = now_ns;
  arp_sent_ = na_sent_ = mld_sent_ = 0;
}

void Announcer::step(Context& ctx) {
  if (!running_) return;
  const std::uint64_t since = ctx.now_ns - started_ns_;
  if (arp_sent_ < kArpAnnouncements && since >= arp_sent_ * kArpInterval) {
    ++arp_sent_;
    for (const Address4& own : ctx.settings.v4_addresses) send_arp_request(ctx, own.address, own.address, nullptr);
  }
  if (na_sent_ < kAdvertisements && since >= na_sent_ * kAdvertisementInterval) {
    ++na_sent_;
    advertise(ctx);
  }
  if (mld_sent_ < kReports && since >= kReportDelay + mld_sent_ * kReportInterval) {
    ++mld_sent_;
    send_mld_report(ctx, false);
  }
  running_ = arp_sent_ < kArpAnnouncements || na_sent_ < kAdvertisements || mld_sent_ < kReports;
}

}  // namespace lw
