// The router that programs run on: EAL, bindings, and the settings that a program chooses.
#pragma once

#include <sched.h>

#include <array>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "binding_table.hpp"
#include "eal.hpp"
#include "filter.hpp"
#include "lane_program.hpp"
#include "settings.hpp"

namespace rig {

using lw::SideId;

inline void start_eal(const char* name) {
  cpu_set_t cores;
  sched_getaffinity(0, sizeof cores, &cores);
  int core = 0;
  while (!CPU_ISSET(core, &cores)) ++core;
  lw::Eal::init({name, "--no-huge", "--no-shconf", "--no-pci", "--no-telemetry", "-m", "256", "--iova-mode=va",
                 "--log-level=error", "-l", std::to_string(core)});
}

constexpr lw::Ipv6 ip6(std::uint64_t high, std::uint64_t low) {
  return {lw::Be<std::uint64_t>{high}.raw(), lw::Be<std::uint64_t>{low}.raw()};
}

inline const lw::Ipv6 kBr1 = ip6(0x20010db800aa0000, 1), kBr2 = ip6(0x20010db800aa0000, 2);
inline const lw::Ipv6 kRouter6 = ip6(0x20010db8ffff0000, 1);

// The bindings of tests/data/dataplane.json: shared without and with offset, whole addresses, three BR addresses, two
// subscribers of one address, two port sets of one B4, sets of one port.
inline const lw::BindingTable& table() {
  static const auto made = [] {
    const auto row = [](std::uint32_t ipv4, std::uint16_t psid, std::uint8_t psid_len, std::uint8_t offset,
                        const lw::Ipv6& b4, const lw::Ipv6& br) {
      return lw::BindingRow{ipv4,
                            psid,
                            psid_len,
                            offset,
                            std::bit_cast<std::array<std::uint8_t, 16>>(b4),
                            std::bit_cast<std::array<std::uint8_t, 16>>(br)};
    };
    const auto b4 = [](std::uint64_t n, std::uint64_t low) {
      return ip6(0x20010db800000000 | n << 16 | n << 8, 0x0000cb0000000000 | low);
    };
    const std::array rows{
        row(0xcb007101, 1, 6, 0, b4(1, 0x71010001), kBr1),
        row(0xcb007101, 2, 6, 0, b4(2, 0x71010002), kBr1),
        row(0xcb007102, 1, 6, 0, b4(3, 0x71020001), kBr1),
        row(0xcb00710a, 0, 0, 0, b4(4, 0x710a0000), kBr1),
        row(0xcb007114, 52, 8, 6, b4(5, 0x71140034), kBr1),
        row(0xcb007115, 52, 8, 4, b4(6, 0x71150034), kBr1),
        row(0xcb00711e, 0, 0, 0, b4(7, 0x711e0000), kBr2),
        row(0xcb007116, 0, 4, 0, b4(8, 0x71160000), kBr1),
        row(0xcb007117, 16383, 15, 0, b4(9, 0x71173fff), kBr1),
        row(0xcb007118, 2748, 12, 4, b4(10, 0x71180abc), kBr1),
        row(0xcb007119, 4660, 16, 0, b4(11, 0x71191234), kRouter6),
        row(0xcb007119, 80, 16, 0, b4(11, 0x71191234), kRouter6),
    };
    auto all = std::make_unique<lw::BindingTable>(1024, lw::BindingTable::Own{{0xc0000201}, {kBr1, kBr2, kRouter6}});
    if (!all->bind(rows, lw::Source::config, 1).ok()) std::abort();
    return all;
  }();
  return *made;
}

// One in each direction: by JIT, by libpcap's interpreter (protochain is a loop), none.
inline std::shared_ptr<const lw::Filter> filter_of(unsigned choice) {
  static const std::array filters{
      std::shared_ptr<const lw::Filter>{},
      std::make_shared<const lw::Filter>("arp or icmp6 or udp or ip6 proto 4"),
      std::make_shared<const lw::Filter>("ip[8] > 60 or ip6 protochain 17"),
      std::make_shared<const lw::Filter>("not icmp and not icmp6 and greater 60"),
  };
  return filters[choice % filters.size()];
}

// All zero: the default of tests/data/dataplane.json.
inline lw::Settings settings_of(const std::array<std::uint8_t, 6>& choices) {
  const auto bits = [&choices](unsigned octet, unsigned at, unsigned n = 1) {
    return static_cast<unsigned>(choices[octet] >> at) & ((1U << n) - 1);
  };
  constexpr std::uint16_t v4_mtus[]{1500, 9000, 576, 1280}, v6_mtus[]{1540, 1500, 1280, 9000};
  constexpr std::uint16_t payload_mtus[]{0, 1400, 1240, 1300}, mss[]{0, 536, 1220, 1452};
  constexpr std::uint32_t packets[]{64, 1, 8, 24}, fragments[]{64, 1, 2, 8};
  lw::Settings s;
  s.hairpin = static_cast<lw::Hairpin>(bits(0, 0, 2) % 3);
  s.pmtud = bits(0, 2) == 0;
  s.proxy_arp = bits(0, 3) != 0;
  s.one_port = bits(0, 4) != 0;
  if (bits(0, 5) != 0) s.v4.vlan = 100;
  if (bits(0, 6) != 0) s.v6.vlan = s.one_port && s.v4.vlan ? 100 : 200;
  if (bits(0, 7) != 0) s.encap_limit = 4;
  if (bits(1, 0) != 0) s.dscp = lw::DscpMode::pipe, s.pipe_dscp = 10;
  s.ecn = static_cast<lw::EcnMode>(bits(1, 1));
  s.flow_label_mode = bits(1, 2) != 0 ? lw::FlowLabelMode::hash : lw::FlowLabelMode::fixed;
  s.icmp_incoming_v4 = bits(1, 3) == 0;
  s.icmp_incoming_v6 = bits(1, 4) == 0;
  s.icmp_unbound_v4 = bits(1, 5) == 0;
  s.icmp_unknown_b4_v6 = bits(1, 6) == 0;
  if (bits(1, 7) != 0) s.icmp_error_tos.reset();
  s.v4.mtu = v4_mtus[bits(2, 0, 2)];
  s.v6.mtu = v6_mtus[bits(2, 2, 2)];
  s.tunnel_payload_mtu = payload_mtus[bits(2, 4, 2)];
  s.tcp_mss = mss[bits(2, 6, 2)];
  s.fragments.max_packets = packets[bits(3, 0, 2)];
  s.fragments.max_fragments = fragments[bits(3, 2, 2)];
  const bool limited = bits(3, 4) != 0;
  s.icmp_rate = limited ? lw::Rate{2, 2'000'000'000} : lw::Rate{};
  s.icmp_per_source = limited ? 1 : 0;
  if (bits(3, 5) != 0) s.icmp_incoming_v4_rate = {1, 1'000'000'000};
  s.options = bits(3, 6) != 0 ? lw::OptionPolicy{false, false, false, true} : lw::OptionPolicy{};
  s.pcp = s.miss_events = s.move_events = bits(3, 7) != 0;
  s.hold_code5_ns = 300'000'000;
  s.v4.ingress_filter = filter_of(bits(5, 0, 2));
  s.v6.ingress_filter = filter_of(bits(5, 2, 2));
  s.v4.egress_filter = filter_of(bits(5, 4, 2));
  s.v6.egress_filter = filter_of(bits(5, 6, 2));
  s.v4.mac = lw::Mac{{2, 0, 0, 0, 4, 1}};
  s.v6.mac = s.one_port ? s.v4.mac : lw::Mac{{2, 0, 0, 0, 6, 1}};
  s.v4_addresses = {{0xc0000201, 24}};
  s.v6_addresses = {{kRouter6, 64}};
  s.v4_next_hop = 0xc00002fe;
  s.v6_next_hop = ip6(0x20010db8ffff0000, 0xfe);
  s.br_addresses = {kBr1, kBr2, kRouter6};
  return s;
}
// The rest of the choices.
inline bool answers(const Program& program, SideId side) {  // from the beginning
  return (program.choices[4] >> static_cast<unsigned>(side) & 1) == 0;
}
inline std::uint32_t mbufs(const Program& program) { return (program.choices[4] & 4) != 0 ? 40 : 320; }

}  // namespace rig
