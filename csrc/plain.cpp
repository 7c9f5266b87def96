#include "plain.hpp"

#include "filter.hpp"

namespace lw {

namespace {

// All but DF of the fragment field, as it lies in the packet.
constexpr Be16 kFragmentMask{ipv4::kMoreFragments | ipv4::kOffsetMask | 0x8000};
// An IPv4 header without options, of no fragment.
constexpr std::uint8_t kIpv4Begins = 0x45;

Pattern begin_of(SideId id, const Mac& mac, const std::optional<std::uint16_t>& vlan, std::size_t header) {
  constexpr Mac kWholeMac{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
  constexpr std::uint8_t kWhole = 0xff, kVersion = 0xf0;
  Pattern begin;
  begin.want(0, mac, kWholeMac);
  if (vlan) begin.want(12, Be32{std::uint32_t{ether::kVlan} << 16 | *vlan}, Be32{0xffff0000U | ether::kVidMask});
  if (id == SideId::v4) {
    begin.want(header - 2, Be16{ether::kIpv4}, Be16{0xffff});
    begin.want(header, kIpv4Begins, kWhole);
    begin.want(header + ipv4::kFragment, Be16{0}, kFragmentMask);
  } else {
    begin.want(header - 2, Be16{ether::kIpv6}, Be16{0xffff});
    begin.want(header, std::uint8_t{0x60}, kVersion);
    begin.want(header + ipv6::kNextHeader, proto::kIpv4, kWhole);
  }
  return begin;
}

Pattern inside_of(const std::vector<Ipv6>& brs) {
  constexpr Ipv6 kWholeAddress{~std::uint64_t{0}, ~std::uint64_t{0}};
  Pattern inside;
  if (brs.size() <= 1) inside.want(0, brs.empty() ? Ipv6{} : brs.front(), kWholeAddress);
  inside.want(sizeof(Ipv6), kIpv4Begins, std::uint8_t{0xff});
  inside.want(sizeof(Ipv6) + ipv4::kFragment, Be16{0}, kFragmentMask);
  return inside;
}

}  // namespace

void PlainWay::use(const Settings& settings) {
  settings_ = &settings;
  own_ = {.first4 = settings.v4_addresses.empty() ? 0 : Be32{settings.v4_addresses.front().address}.raw(),
          .more4 = settings.v4_addresses.size() > 1,
          .more_br = settings.br_addresses.size() > 1,
          .inside = inside_of(settings.br_addresses)};
  const auto link_of = [this](SideId id, const Side& side) {
    Link link;
    link.usable = !side.vlan || side.ingress_filter == nullptr;
    link.header = ether::kHeader + (side.vlan ? ether::kTag : 0);
    link.begin = begin_of(id, side.mac, side.vlan, link.header);
    link.ingress = side.ingress_filter.get();
    link.further = link.ingress != nullptr || own_.more4 || (id == SideId::v6 && own_.more_br);
    return link;
  };
  v4_ = link_of(SideId::v4, settings.v4);
  v6_ = link_of(SideId::v6, settings.v6);
  use_outer(settings);
  const bool filtered = settings.v4.egress_filter != nullptr || settings.v6.egress_filter != nullptr;
  bare_ = !filtered && settings.tcp_mss == 0 && outer_.option == 0 && outer_.hash && settings.dscp == DscpMode::copy;
}

void PlainWay::use_outer(const Settings& settings) {
  const std::uint8_t next = settings.encap_limit ? proto::kDestination : proto::kIpv4;
  const std::uint8_t copied = (settings.dscp == DscpMode::copy ? 0xfc : 0) | (settings.ecn == EcnMode::normal ? 3 : 0);
  const unsigned given = settings.dscp == DscpMode::pipe ? settings.pipe_dscp << 2 : 0;
  outer_ = {
      .fixed = std::uint64_t{6} << 60 | std::uint64_t{given} << 52 | std::uint64_t{next} << 8 | settings.hop_limit,
      .class_and = std::uint64_t{copied} << 52,
      .option = 0,
      .overhead = tunnel_overhead(settings),
      .hash = settings.flow_label_mode == FlowLabelMode::hash};
  outer_.fixed |= std::uint64_t{outer_.overhead - unsigned{ipv6::kHeader}} << 16;
  if (!outer_.hash) outer_.fixed |= std::uint64_t{settings.flow_label} << 32;
  if (settings.encap_limit) outer_.option = load<std::uint64_t>(limit_option(*settings.encap_limit).data());
}

}  // namespace lw
