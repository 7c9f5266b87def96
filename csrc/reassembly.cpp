#include "reassembly.hpp"

#include "checksum.hpp"
#include "headers.hpp"

namespace lw {

namespace {

Reassembly::Part& part_of(rte_mbuf* frame) { return *packet::priv<Reassembly::Part>(frame); }

bool same_octets(const rte_mbuf* a, const rte_mbuf* b) {
  const Reassembly::Part pa = part_of(const_cast<rte_mbuf*>(a)), pb = part_of(const_cast<rte_mbuf*>(b));
  std::uint8_t left[256], right[256];
  for (std::uint32_t done = 0; done < pa.length;) {
    const std::uint32_t n = std::min<std::uint32_t>(sizeof left, pa.length - done);
    packet::copy_out(a, pa.headers + done, left, n);
    packet::copy_out(b, pb.headers + done, right, n);
    if (std::memcmp(left, right, n) != 0) return false;
    done += n;
  }
  return true;
}

// Drops `octets` at the front, across segments; returns what is left, null if nothing.
rte_mbuf* behead(rte_mbuf* frame, std::uint32_t octets) {
  std::uint32_t left = packet::length(frame) - octets;
  std::uint16_t segments = frame->nb_segs;
  while (frame != nullptr && octets >= frame->data_len) {
    octets -= frame->data_len;
    rte_mbuf* next = frame->next;
    rte_pktmbuf_free_seg(frame);
    frame = next;
    --segments;
  }
  if (frame == nullptr) return nullptr;
  frame->data_off = static_cast<std::uint16_t>(frame->data_off + octets);
  frame->data_len = static_cast<std::uint16_t>(frame->data_len - octets);
  frame->pkt_len = left;
  frame->nb_segs = segments;
  return frame;
}

constexpr std::uint8_t kNotEct = 1U << 0, kCe = 1U << 3;

}  // namespace

Reassembly::Reassembly(const FragmentLimits& limits, std::uint32_t held_limit)
    : store_(limits.max_packets, held_limit), limits_(limits) {}

Reassembly::Fragment Reassembly::fragment6(const rte_mbuf* frame, std::uint16_t next_header_at,
                                           std::uint16_t header_at) {
  const std::uint8_t* ip = packet::data(frame);
  const std::uint16_t field = load16(ip + header_at + 2);
  const auto headers = static_cast<std::uint16_t>(header_at + ipv6::kFragmentHeader);
  const auto length = static_cast<std::uint16_t>(packet::length(frame) - headers);
  return {.key = {ipv6::source(ip), ipv6::destination(ip), load32(ip + header_at + 4), false},
          .part = {nullptr, field & 0xfff8U, length, headers, next_header_at, false},
          .last = (field & 1) == 0,
          .ecn = static_cast<std::uint8_t>(ipv6::traffic_class(ip) & 3)};
}

Reassembly::Fragment Reassembly::fragment4(const rte_mbuf* frame, std::uint16_t at) {
  const std::uint8_t* ip = packet::data(frame, at);
  const std::uint16_t field = ipv4::fragment_field(ip);
  const auto headers = static_cast<std::uint16_t>(at + ipv4::header_length(ip));
  const auto length = static_cast<std::uint16_t>(packet::length(frame) - headers);
  const Ipv6 softwire = at == 0 ? Ipv6{} : ipv6::source(packet::data(frame));
  return {
      .key = {softwire, {load<std::uint64_t>(ip + ipv4::kSource), ip[ipv4::kProtocol]}, load16(ip + ipv4::kId), true},
      .part = {nullptr, (field & ipv4::kOffsetMask) * 8U, length, headers, at, true},
      .last = (field & ipv4::kMoreFragments) == 0,
      .ecn = static_cast<std::uint8_t>(ip[ipv4::kTos] & 3)};
}

rte_mbuf* Reassembly::detach(Node& node) {
  rte_mbuf* chain = node.value.first;
  store_.release(node);
  node.value.first = nullptr;
  node.value.octets = 0;
  return chain;
}

Reassembly::Outcome Reassembly::condemn(Node& node, Counter reason) {
  node.value.condemned = Reassembly::reason(node.key.ipv4, reason);
  return {Result::refused, node.value.condemned, nullptr, 0, detach(node)};
}

std::optional<Reassembly::Outcome> Reassembly::find_place(Node& node, rte_mbuf* frame, const Fragment& fragment,
                                                          Place& place) {
  Packet& packet = node.value;
  if (packet.condemned != Counter::count_) return Outcome{Result::refused, packet.condemned};
  const std::uint16_t length = fragment.part.length;
  const std::uint32_t start = fragment.part.start, end = start + length;
  place = {&packet.first, fragment.last};
  rte_mbuf* before = nullptr;
  while (*place.link != nullptr && part_of(*place.link).start < start) {
    before = *place.link;
    place.link = &part_of(before).next;
  }
  rte_mbuf* after = *place.link;
  part_of(frame) = fragment.part;
  part_of(frame).next = after;
  if (after != nullptr && part_of(after).start == start && part_of(after).length == length &&
      same_octets(after, frame)) {
    return Outcome{Result::refused, reason(node.key.ipv4, Counter::drop_fragment_v6_duplicate)};
  }
  const bool overlaps_before = before != nullptr && part_of(before).start + part_of(before).length > start;
  const bool overlaps_after = after != nullptr && part_of(after).start < end;
  const bool beyond_end = packet.end != 0 && (end > packet.end || (place.last && end != packet.end));
  const bool end_inside = place.last && after != nullptr;
  if (overlaps_before || overlaps_after || beyond_end || end_inside) {
    return condemn(node, Counter::drop_fragment_v6_overlap);
  }
  return std::nullopt;
}

Reassembly::Outcome Reassembly::put(Node& node, rte_mbuf* frame, const Fragment& fragment, const Place& place) {
  Packet& packet = node.value;
  const Part& part = part_of(frame);
  *place.link = frame;
  packet.octets += part.length;
  packet.ecn_seen = static_cast<std::uint8_t>(packet.ecn_seen | 1U << fragment.ecn);
  if (place.last) packet.end = part.start + part.length;
  const bool whole = packet.end != 0 && packet.octets == packet.end;
  return whole ? finish(node) : Outcome{Result::waits};
}

namespace {

// Only the fragment header goes, and the length is another.
void mend6(rte_mbuf* whole, const Reassembly::Part& first, bool marked) {
  const auto unfragmentable = static_cast<std::uint16_t>(first.headers - ipv6::kFragmentHeader);
  std::uint8_t* ip = packet::data(whole);
  ip[first.at] = ip[unfragmentable];
  std::memmove(ip + ipv6::kFragmentHeader, ip, unfragmentable);
  packet::pull(whole, ipv6::kFragmentHeader);
  ip = packet::data(whole);
  store16(ip + ipv6::kPayloadLength, static_cast<std::uint16_t>(packet::length(whole) - ipv6::kHeader));
  if (marked) ip[1] |= 0x30;
}

void mend4(rte_mbuf* whole, const Reassembly::Part& first, bool marked) {
  std::uint8_t* ip = packet::data(whole, first.at);
  store16(ip + ipv4::kTotalLength, static_cast<std::uint16_t>(packet::length(whole) - first.at));
  store16(ip + ipv4::kFragment, 0);
  if (marked) ip[ipv4::kTos] |= 3;
  store16(ip + ipv4::kChecksum, 0);
  store(ip + ipv4::kChecksum, checksum::field(checksum::sum(ip, ipv4::header_length(ip))));
}

}  // namespace

Reassembly::Outcome Reassembly::finish(Node& node) {
  const Packet packet = node.value;
  const bool ipv4 = node.key.ipv4;
  const std::uint32_t parts = node.held;
  rte_mbuf* whole = detach(node);
  store_.erase(node);
  if ((packet.ecn_seen & kCe) != 0 && (packet.ecn_seen & kNotEct) != 0) {  // RFC 3168 section 5.3
    return {Result::whole, reason(ipv4, Counter::drop_fragment_v6_ecn), nullptr, parts, whole};
  }
  const Part first = part_of(whole);
  rte_mbuf* next = first.next;
  while (next != nullptr) {
    rte_mbuf* one = next;
    const Part part = part_of(one);
    next = part.next;
    if (rte_mbuf* rest = behead(one, part.headers)) packet::append(whole, rest);
  }
  (ipv4 ? mend4 : mend6)(whole, first, (packet.ecn_seen & kCe) != 0);
  return {Result::whole, Counter::count_, whole, parts};
}

bool Reassembly::pressure() {
  const bool now = store_.nearly_full();
  const bool fresh = now && !pressed_;
  pressed_ = now;
  return fresh;
}

}  // namespace lw
