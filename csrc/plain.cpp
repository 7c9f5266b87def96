#include "plain.hpp"

#include "filter.hpp"

namespace lw {

void PlainWay::use(const Settings& settings) {
  settings_ = &settings;
  const auto link_of = [](const Side& side) {
    Link link{.usable = !side.vlan || side.ingress_filter == nullptr,
              .header = ether::kHeader,
              .mac = 0,
              .tag = 0,
              .tag_mask = 0,
              .ingress = side.ingress_filter.get()};
    std::memcpy(&link.mac, &side.mac, sizeof side.mac);
    if (side.vlan) {
      link.header += ether::kTag;
      link.tag = Be32{std::uint32_t{ether::kVlan} << 16 | *side.vlan}.raw();
      link.tag_mask = Be32{0xffff0000U | ether::kVidMask}.raw();
    }
    return link;
  };
  v4_ = link_of(settings.v4);
  v6_ = link_of(settings.v6);
  own_ = {.first4 = settings.v4_addresses.empty() ? 0 : Be32{settings.v4_addresses.front().address}.raw(),
          .more4 = settings.v4_addresses.size() > 1,
          .first_br = settings.br_addresses.empty() ? Ipv6{} : settings.br_addresses.front(),
          .more_br = settings.br_addresses.size() > 1};
  outer_ = {.fixed = std::uint64_t{6} << 60 |
                     std::uint64_t{settings.encap_limit ? proto::kDestination : proto::kIpv4} << 8 | settings.hop_limit,
            .option = 0,
            .overhead = tunnel_overhead(settings),
            .class_and = static_cast<std::uint8_t>((settings.dscp == DscpMode::copy ? 0xfc : 0) |
                                                   (settings.ecn == EcnMode::normal ? 3 : 0)),
            .class_or = static_cast<std::uint8_t>(settings.dscp == DscpMode::pipe ? settings.pipe_dscp << 2 : 0),
            .hash = settings.flow_label_mode == FlowLabelMode::hash,
            .label = settings.flow_label};
  if (settings.encap_limit) outer_.option = load<std::uint64_t>(limit_option(*settings.encap_limit).data());
}

}  // namespace lw
