#include "settings_change.hpp"

#include <algorithm>

namespace lw {

namespace {

void check_mac(std::vector<std::string>& fixed, const char* name, const Side& now, bool own_now, Side& next,
               bool own_next) {
  if (own_now != own_next || (!own_now && now.mac != next.mac)) fixed.emplace_back(name);
  next.mac = now.mac;
}

template <class Address>
bool same_address(const Address& a, const Address& b) {
  return a.address == b.address && a.prefix_len == b.prefix_len;
}

template <class Address>
bool same_addresses(const std::vector<Address>& a, const std::vector<Address>& b) {
  return std::ranges::equal(a, b, same_address<Address>);
}

}  // namespace

std::vector<std::string> fixed_fields(const Settings& now, OwnMac own_now, Settings& next, OwnMac own_next) {
  std::vector<std::string> fixed;
  const auto check = [&fixed](bool same, const char* name) {
    if (!same) fixed.emplace_back(name);
  };
  check(now.one_port == next.one_port, "one_port");
  check_mac(fixed, "v4.mac", now.v4, own_now.v4, next.v4, own_next.v4);
  check_mac(fixed, "v6.mac", now.v6, own_now.v6, next.v6, own_next.v6);
  check(now.v4.mtu == next.v4.mtu, "v4.mtu");
  check(now.v6.mtu == next.v6.mtu, "v6.mtu");
  // The packet buffers were counted for it.
  check(now.fragments.max_packets == next.fragments.max_packets, "reassembly.max_packets");
  return fixed;
}

std::vector<SideId> changed_next_hops(const Settings& before, const Settings& after) {
  std::vector<SideId> sides;
  const auto same_way = [](const Side& a, const Side& b) {
    return a.next_hop_mac == b.next_hop_mac && a.vlan == b.vlan;
  };
  if (before.v4_next_hop != after.v4_next_hop || !same_way(before.v4, after.v4)) sides.push_back(SideId::v4);
  if (before.v6_next_hop != after.v6_next_hop || !same_way(before.v6, after.v6)) sides.push_back(SideId::v6);
  return sides;
}

bool announced_anew(const Settings& before, const Settings& after) {
  return !same_addresses(before.v4_addresses, after.v4_addresses) ||
         !same_addresses(before.v6_addresses, after.v6_addresses) || before.br_addresses != after.br_addresses ||
         before.v4.vlan != after.v4.vlan || before.v6.vlan != after.v6.vlan;
}

}  // namespace lw
