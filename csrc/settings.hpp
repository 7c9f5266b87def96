// What the data plane needs of the configuration: one immutable value, read through one pointer.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "rate_limit.hpp"
#include "types.hpp"

namespace lw {

class Filter;

struct Address4 {
  Ipv4 address{};
  std::uint8_t prefix_len{32};
};
struct Address6 {
  Ipv6 address{};
  std::uint8_t prefix_len{128};
};

enum class SideId : std::uint8_t { v4, v6 };

enum class DscpMode : std::uint8_t { copy, pipe };
enum class EcnMode : std::uint8_t { normal, compatibility };
enum class FlowLabelMode : std::uint8_t { hash, fixed };  // zero is fixed 0
enum class Hairpin : std::uint8_t { local, external, drop };

struct Side {
  Mac mac{};
  std::optional<std::uint16_t> vlan;             // 802.1Q id
  std::uint16_t mtu{1500};                       // L3 octets
  std::optional<Mac> next_hop_mac;               // fixed: no resolution
  std::shared_ptr<const Filter> ingress_filter;  // null: everything passes
  std::shared_ptr<const Filter> egress_filter;
};

struct OptionPolicy {  // true = drop (RFC 7126)
  bool source_route{true};
  bool record_route{true};
  bool timestamp{true};
  bool router_alert{false};
};

struct FragmentLimits {
  std::uint32_t max_packets{20000};
  std::uint32_t max_fragments{64};
  std::uint64_t timeout_ns{60'000'000'000};
  std::uint64_t v4_hold_ns{2'000'000'000};  // spec 4.12: held IPv4 fragments wait about 2 s
};

struct Settings {
  Side v4;
  Side v6;
  bool one_port{};                     // on a stick
  std::vector<Address4> v4_addresses;  // the first is the source of ICMPv4 errors
  std::vector<Address6> v6_addresses;
  Ipv4 v4_next_hop{};
  Ipv6 v6_next_hop{};
  std::vector<Ipv6> br_addresses;  // all that are served, those named by bindings included

  std::uint16_t tunnel_payload_mtu{};  // 0 = from the IPv6 MTU
  std::uint8_t hop_limit{64};
  std::optional<std::uint8_t> encap_limit;
  DscpMode dscp{DscpMode::copy};
  std::uint8_t pipe_dscp{};
  EcnMode ecn{EcnMode::normal};
  FlowLabelMode flow_label_mode{FlowLabelMode::hash};
  std::uint32_t flow_label{};
  bool pmtud{true};
  Hairpin hairpin{Hairpin::local};
  std::uint16_t tcp_mss{};  // 0 = off; auto is resolved by the control side
  bool proxy_arp{true};
  FragmentLimits fragments;
  OptionPolicy options;

  bool icmp_incoming_v4{true};
  Rate icmp_incoming_v4_rate;
  bool icmp_incoming_v6{true};
  bool icmp_unbound_v4{true};
  bool icmp_unknown_b4_v6{true};
  Rate icmp_rate{200, 2'000'000'000};
  std::uint32_t icmp_per_source{10};                 // of the same period
  std::optional<std::uint8_t> icmp_error_tos{0xc0};  // empty = that of the offending packet
  std::uint8_t subscriber_mask{56};

  bool pcp{true};
  std::vector<Ipv4> pcp_addresses{0xc0000001};
  Rate pcp_rate;            // of the whole router
  Rate pcp_per_subscriber;  // of one prefix
  // Of packets that no binding vouches for, the control side is told: all of them, or those of a subscriber whose B4
  // has another address now. One a second of one subscriber.
  bool miss_events{};
  bool move_events{};
  std::uint64_t hold_code5_ns{};  // so long after that no ICMPv6 1/5: a binding may be on its way
};

}  // namespace lw
