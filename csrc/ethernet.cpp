// The link layer of a received frame: whose it is, which side it belongs to, and where its IP header starts.
#include "filter.hpp"
#include "stage.hpp"

namespace lw {

namespace {

// The ethertype behind the side's tag, if any; the link header's length goes to `header`.
Counter read_type(const rte_mbuf* frame, std::uint16_t& type, std::uint16_t& header, int& vlan) {
  if (frame->data_len < ether::kHeader) return Counter::drop_l2_runt;
  const std::uint8_t* octets = packet::data(frame);
  header = ether::kHeader;
  type = load16(octets + 12);
  vlan = -1;
  if (type != ether::kVlan) return Counter::count_;
  if (frame->data_len < ether::kHeader + ether::kTag) return Counter::drop_l2_runt;
  vlan = load16(octets + 14) & ether::kVidMask;
  if (vlan == 0) vlan = -1;  // a priority tag only, IEEE 802.1Q
  type = load16(octets + 16);
  header = ether::kHeader + ether::kTag;
  return Counter::count_;
}

bool group_destination(std::uint16_t type, const std::uint8_t* octets, std::uint32_t n) {
  if (type != ether::kIpv6 || n < ipv6::kHeader) return false;
  return octets[ipv6::kDestination] == 0xff;
}

Counter check_destination(const Side& side, Item& item, std::uint16_t type, std::uint16_t header) {
  const std::uint8_t* octets = packet::data(item.frame);
  const auto to = load<Mac>(octets);
  item.group_link = to.is_group();
  if (to == side.mac) return Counter::count_;
  if (!item.group_link) return Counter::drop_l2_not_for_us;
  if (type == ether::kArp) return Counter::count_;
  const bool group = group_destination(type, octets + header, item.frame->data_len - std::uint32_t{header});
  return group ? Counter::count_ : Counter::drop_l2_group_unicast;
}

// A filter sees no tag (filter.hpp): the addresses move up to the type.
bool refused(const Filter& filter, rte_mbuf* frame, std::uint16_t& header) {
  if (header != ether::kHeader) {
    std::uint8_t* octets = packet::data(frame);
    std::memmove(octets + ether::kTag, octets, 2 * sizeof(Mac));
    packet::pull(frame, ether::kTag);
    header = ether::kHeader;
  }
  return !filter.passes(frame);
}

}  // namespace

// The side is known from the port, or on a stick from what the frame carries.
LinkResult read_link(Context& ctx, Item& item, PortRole role) {
  std::uint16_t type = 0, header = 0;
  int vlan = -1;
  const auto end = [&](Counter reason) {
    drop(ctx, item, reason);
    return LinkResult::ended;
  };
  item.side = role == PortRole::v6 ? SideId::v6 : SideId::v4;
  const std::uint32_t octets = packet::length(item.frame);
  const bool gathered = packet::gather(item.frame, packet::kWindow + ether::kHeader + ether::kTag);
  const Counter fault = read_type(item.frame, type, header, vlan);
  if (role == PortRole::both && fault == Counter::count_ && type == ether::kIpv6) item.side = SideId::v6;
  const bool v4 = item.side == SideId::v4;
  ctx.count(v4 ? Counter::rx_v4 : Counter::rx_v6);
  ctx.count(v4 ? Counter::rx_v4_bytes : Counter::rx_v6_bytes, octets);
  if (fault != Counter::count_) return end(fault);
  if (!gathered) return end(Counter::drop_no_buffer);
  const Side& side = v4 ? ctx.settings.v4 : ctx.settings.v6;
  if (vlan != (side.vlan ? *side.vlan : -1)) return end(Counter::drop_l2_vlan);
  if (side.ingress_filter != nullptr && refused(*side.ingress_filter, item.frame, header)) [[unlikely]] {
    return end(Counter::drop_filter_in);
  }
  const bool expected = v4 ? type == ether::kIpv4 || type == ether::kArp : type == ether::kIpv6;
  if (!expected) return end(Counter::drop_l2_ethertype);
  if (const Counter other = check_destination(side, item, type, header); other != Counter::count_) return end(other);
  item.from = load<Mac>(packet::data(item.frame) + 6);
  packet::pull(item.frame, header);
  return type == ether::kArp ? LinkResult::arp : v4 ? LinkResult::ipv4 : LinkResult::ipv6;
}

}  // namespace lw
