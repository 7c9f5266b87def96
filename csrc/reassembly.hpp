// Reassembly of outer IPv6 packets (RFC 8200 section 4.5, RFC 5722, RFC 6946), before anything inside is looked at, and
// of IPv4 packets for the router itself: pings (DP-129). What passes is never put together (fragment_ports.hpp).
//
// librte_ip_frag does not fit here: it takes 8 fragments a packet in Debian's build, accepts overlaps, knows no ECN
// rule (RFC 3168 section 5.3) and no share per source, and forgets the first fragment that a timeout has to quote.
//
// A fragment's frame stays whole while it waits: the first one is quoted by errors and gives the headers.
#pragma once

#include <cstdint>
#include <optional>

#include "aged_store.hpp"
#include "counters.hpp"
#include "hash.hpp"
#include "packet.hpp"
#include "settings.hpp"

namespace lw {

class Reassembly {
 public:
  // Beside a waiting fragment, in its private area.
  struct Part {
    rte_mbuf* next;
    std::uint32_t start;  // of its data in the fragmentable part
    std::uint16_t length;
    std::uint16_t headers;  // octets before its data
    std::uint16_t at;       // IPv6: the octet that names the fragment header; IPv4: its header
    bool ipv4;
  };
  struct Key {
    Ipv6 source;       // IPv4: the B4 of the softwire it came through, or nothing
    Ipv6 destination;  // IPv4: both addresses, and the protocol
    std::uint32_t id;
    bool ipv4;
    bool operator==(const Key&) const = default;
    std::uint64_t hash() const {
      return hash::mix(hash::mix(source.high, source.low) ^ id, hash::mix(destination.high, destination.low));
    }
  };
  struct Fragment {
    Key key;
    Part part;
    bool last;
    std::uint8_t ecn;
  };
  enum class Result : std::uint8_t { waits, whole, refused };
  struct Outcome {
    Result result;
    Counter reason{};       // with refused
    rte_mbuf* packet{};     // with whole: the packet without its fragment header, or null if `reason` condemns it
    std::uint32_t parts{};  // with whole: how many fragments it came in
    rte_mbuf* condemned{};  // fragments that go with this one, linked by Part::next; with whole: all of them
  };

  Reassembly(const FragmentLimits& limits, std::uint32_t held_limit);

  // Takes the frame with `waits` and `whole`; with `refused` the caller keeps it. The data starts at the IPv6 header.
  // `evicted(chain)` gets the fragments of a packet that had to make room.
  template <class Evicted>
  Outcome add(rte_mbuf* frame, const Fragment& fragment, std::uint64_t source_hash, std::uint64_t now_ns,
              Evicted&& evicted) {
    const Key& key = fragment.key;
    const Counter limit = reason(key.ipv4, Counter::drop_fragment_v6_limit);
    Node* node = store_.find(key);
    if (node == nullptr) {
      if (limits_.max_fragments <= 1) return {Result::refused, limit};
      node = store_.insert(key, source_hash, now_ns, [&](Node& old) { evicted(detach(old)); });
      if (node == nullptr) return {Result::refused, limit};
    }
    Place place;
    if (const auto refusal = find_place(*node, frame, fragment, place)) return *refusal;
    const bool room =
        node->held < limits_.max_fragments && store_.hold(*node, [&](Node& old) { evicted(detach(old)); });
    if (!room) return condemn(*node, Counter::drop_fragment_v6_limit);
    return put(*node, frame, fragment, place);
  }

  // The reason of a drop among IPv4 fragments, given that of IPv6.
  static constexpr Counter reason(bool ipv4, Counter of_ipv6) {
    if (!ipv4) return of_ipv6;
    if (of_ipv6 == Counter::drop_fragment_v6_limit) return Counter::drop_fragment_v4_limit;
    if (of_ipv6 == Counter::drop_fragment_v6_timeout) return Counter::drop_fragment_v4_timeout;
    return Counter::drop_fragment_v4_bad;
  }

  // The data starts at the IPv6 header; the fragment header is there.
  static Fragment fragment6(const rte_mbuf* frame, std::uint16_t next_header_at, std::uint16_t header_at);
  // The IPv4 header is at `at`, and the frame ends with the packet.
  static Fragment fragment4(const rte_mbuf* frame, std::uint16_t at);

  // `expired(rte_mbuf* chain)`: the offset-0 fragment comes first in the chain, if it is there (DP-166).
  template <class Expired>
  void expire(std::uint64_t now_ns, Expired&& expired) {
    if (now_ns < limits_.timeout_ns) return;
    store_.expire(now_ns - limits_.timeout_ns, [&](Node& node) { expired(detach(node)); });
  }
  template <class Expired>
  void clear(Expired&& expired) {
    store_.expire(~std::uint64_t{0}, [&](Node& node) { expired(detach(node)); });
  }

  // Other limits for what is there and what comes; that of packets stays.
  void adopt(const FragmentLimits& limits) { limits_ = limits; }

  // True once each time the store comes above nine tenths of its packets or fragments (DP-173).
  bool pressure();

 private:
  struct Packet {
    rte_mbuf* first{};  // sorted by Part::start
    std::uint32_t octets{};
    std::uint32_t end{};      // of the fragmentable part; 0 = the last fragment has not come
    std::uint8_t ecn_seen{};  // bit per code point
    // RFC 5722: after an overlap everything of it is dropped until it times out; so too after a limit.
    Counter condemned{Counter::count_};
  };
  using Store = AgedStore<Key, Packet>;
  using Node = Store::Node;

  struct Place {
    rte_mbuf** link;  // where the fragment goes into the list
    bool last;        // of its packet
  };

  std::optional<Outcome> find_place(Node& node, rte_mbuf* frame, const Fragment& fragment, Place& place);
  Outcome put(Node& node, rte_mbuf* frame, const Fragment& fragment, const Place& place);
  Outcome condemn(Node& node, Counter reason);
  Outcome finish(Node& node);
  rte_mbuf* detach(Node& node);

  Store store_;
  FragmentLimits limits_;
  bool pressed_{};
};

}  // namespace lw
