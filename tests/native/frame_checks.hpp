// What must be true of every frame that a lane sends, whatever it was fed.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>

#include "checksum.hpp"
#include "headers.hpp"
#include "settings.hpp"

class FrameChecks {
 public:
  using Octets = std::span<const std::uint8_t>;
  explicit FrameChecks(const lw::Settings& settings) : settings_(settings) {}

  void check(lw::SideId side, Octets frame) {
    frame_ = frame;
    side_ = side;
    const lw::Side& own = side == lw::SideId::v4 ? settings_.v4 : settings_.v6;
    std::size_t header = lw::ether::kHeader;
    expect(frame.size() >= header, "a runt was sent");
    expect(lw::load<lw::Mac>(&frame[6]) == own.mac, "link source is not ours");
    std::uint16_t type = lw::load16(&frame[12]);
    expect((type == lw::ether::kVlan) == own.vlan.has_value(), "tag where none is set, or none where one is");
    if (own.vlan) {
      header += lw::ether::kTag;
      expect(frame.size() >= header && lw::load16(&frame[14]) == *own.vlan, "another tag");
      type = lw::load16(&frame[16]);
    }
    const Octets packet = frame.subspan(header);
    if (side == lw::SideId::v6) {
      expect(type == lw::ether::kIpv6, "ethertype on the IPv6 side");
      return ipv6(packet);
    }
    if (type == lw::ether::kArp) return expect(packet.size() == 28, "length of ARP");
    expect(type == lw::ether::kIpv4, "ethertype on the IPv4 side");
    ipv4(packet);
  }

 private:
  void expect(bool good, const char* what) const {
    if (good) return;
    std::fprintf(stderr, "sent on %s: %s\n", side_ == lw::SideId::v4 ? "v4" : "v6", what);
    for (const std::uint8_t octet : frame_) std::fprintf(stderr, "%02x", octet);
    std::fprintf(stderr, "\n");
    std::abort();
  }

  bool own4(lw::Ipv4 address) const {
    for (const lw::Address4& own : settings_.v4_addresses) {
      if (own.address == address) return true;
    }
    return false;
  }

  void header4(Octets ip) const {
    expect(ip.size() >= lw::ipv4::kHeader && ip[0] >> 4 == 4, "IPv4 version");
    const std::uint16_t header = lw::ipv4::header_length(ip.data());
    expect(header >= lw::ipv4::kHeader && header <= ip.size(), "IPv4 header length");
    expect(lw::checksum::good(lw::checksum::sum(ip.data(), header)), "IPv4 header checksum");
    expect(ip[lw::ipv4::kTtl] > 0, "TTL 0");
  }

  void icmp4(Octets ip) const {
    const Octets icmp = ip.subspan(lw::ipv4::header_length(ip.data()));
    expect(icmp.size() >= lw::icmp4::kHeader, "length of our ICMPv4");
    expect(lw::checksum::good(lw::checksum::sum(icmp.data(), static_cast<std::uint32_t>(icmp.size()))),
           "ICMPv4 checksum");
    expect(!lw::icmp4::is_error(icmp[0]) || ip.size() <= 576, "ICMPv4 error of more than 576 octets");
  }

  void ipv4(Octets ip) const {
    header4(ip);
    expect(lw::ipv4::total_length(ip.data()) == ip.size(), "IPv4 Total Length");
    const bool ours = own4(lw::ipv4::source(ip.data()));
    if (ours && !lw::ipv4::is_fragment(ip.data())) icmp4(ip);
    // Who asks with more than the link carries is answered with as much.
    const bool reply = ours && ip[lw::ipv4::header_length(ip.data())] == lw::icmp4::kEchoReply;
    expect(ip.size() <= settings_.v4.mtu || reply, "larger than the IPv4 link");
  }

  void inner(Octets ip) const {
    header4(ip);
    expect(lw::ipv4::total_length(ip.data()) == ip.size(), "Total Length in the softwire");
    if (lw::ipv4::source(ip.data()) == 0xc0000001 && !lw::ipv4::is_fragment(ip.data())) icmp4(ip);
  }

  void ipv6(Octets ip) const {
    expect(ip.size() >= lw::ipv6::kHeader && ip[0] >> 4 == 6, "IPv6 version");
    expect(ip.size() == lw::ipv6::kHeader + std::size_t{lw::ipv6::payload_length(ip.data())}, "IPv6 Payload Length");
    expect(ip.size() <= std::max<std::size_t>(settings_.v6.mtu, lw::ipv6::kMinimumMtu), "larger than the IPv6 link");
    expect(ip[lw::ipv6::kHopLimit] > 0, "hop limit 0");
    expect(!lw::ipv6::source(ip.data()).is_multicast(), "IPv6 source is a group");
    std::uint8_t next = ip[lw::ipv6::kNextHeader];
    Octets rest = ip.subspan(lw::ipv6::kHeader);
    if (next == lw::proto::kDestination || next == lw::proto::kHopByHop) {
      expect(rest.size() > 8 && rest[1] == 0, "extension header");
      next = rest[0];
      rest = rest.subspan(8);
    }
    if (next == lw::proto::kFragment) return fragment6(rest);
    if (next == lw::proto::kIpv4) return inner(rest);
    expect(next == lw::proto::kIcmp6, "IPv6 next header");
    const auto n = static_cast<std::uint32_t>(rest.size());
    const std::uint64_t pseudo = lw::checksum::pseudo6(&ip[lw::ipv6::kSource], n, lw::proto::kIcmp6);
    expect(n >= 4 && lw::checksum::good(lw::checksum::sum(rest.data(), n, pseudo)), "ICMPv6 checksum");
    expect(rest[0] >= 128 || ip.size() <= lw::ipv6::kMinimumMtu, "ICMPv6 error of more than 1280 octets");
  }

  void fragment6(Octets rest) const {
    expect(rest.size() > lw::ipv6::kFragmentHeader, "fragment without data");
    const std::uint16_t field = lw::load16(&rest[2]);
    expect((field & 1) == 0 || rest.size() % 8 == 0, "length of an IPv6 fragment");
    expect((field & 0xfff9) != 0, "atomic fragment");
    if ((field & 0xfff8) == 0 && rest[0] == lw::proto::kIpv4) header4(rest.subspan(lw::ipv6::kFragmentHeader));
  }

  const lw::Settings& settings_;
  Octets frame_;
  lw::SideId side_{};
};
