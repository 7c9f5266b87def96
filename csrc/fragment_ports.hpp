// Virtual reassembly of IPv4 fragments (RFC 6346 section 5.3.3): the first fragment's port steers the later ones; those
// that come before it wait. Nothing is put together, no length changes (RFC 1812 section 5.2.6 forbids it).
#pragma once

#include <cstdint>

#include "aged_store.hpp"
#include "hash.hpp"
#include "packet.hpp"
#include "settings.hpp"
#include "types.hpp"

namespace lw {

// Beside a held frame, in its private area.
struct Waiting {
  rte_mbuf* next;
  SideId side;
};

class FragmentPorts {
 public:
  struct Key {
    Ipv6 softwire;  // B4 of an upstream fragment: two subscribers may share address and identification (DP-176)
    std::uint64_t addresses;  // source and destination as they lie in the packet
    std::uint16_t id;
    std::uint8_t protocol;
    std::uint8_t towards;  // 1: the destination port of a hairpinned packet, whose source port has a record of its own
    bool operator==(const Key&) const = default;
    std::uint64_t hash() const {
      return hash::mix(hash::mix(softwire.high, softwire.low),
                       hash::mix(addresses, std::uint64_t{id} << 16 | protocol << 8U | towards));
    }
  };
  struct Record {
    bool known{};     // the first fragment came
    bool has_port{};  // and had a port
    std::uint16_t port{};
    rte_mbuf* first_held{};
    rte_mbuf* last_held{};
  };
  using Store = AgedStore<Key, Record>;
  using Node = Store::Node;

  FragmentPorts(std::uint32_t capacity, std::uint32_t held_limit, std::uint64_t hold_ns)
      : store_(capacity, held_limit), hold_ns_(hold_ns) {}

  // The record of a datagram, made if there is none. Null: no room; evicted frames go to `dropped(rte_mbuf* chain)`.
  template <class Dropped>
  Node* record(const Key& key, std::uint64_t source_hash, std::uint64_t now_ns, Dropped&& dropped) {
    Node* node = store_.find(key);
    if (node != nullptr) return node;
    return store_.insert(key, source_hash, now_ns, [&](Node& old) { dropped(detach(old)); });
  }

  template <class Dropped>
  bool hold(Node& node, rte_mbuf* frame, SideId side, Dropped&& dropped) {
    if (node.held >= kHeldPerDatagram) return false;
    if (!store_.hold(node, [&](Node& old) { dropped(detach(old)); })) return false;
    Record& record = node.value;
    *packet::priv<Waiting>(frame) = {nullptr, side};
    if (record.first_held == nullptr) {
      record.first_held = frame;
    } else {
      packet::priv<Waiting>(record.last_held)->next = frame;
    }
    record.last_held = frame;
    return true;
  }

  // The frames that waited, in order of arrival, linked by Waiting::next.
  rte_mbuf* detach(Node& node) {
    rte_mbuf* chain = node.value.first_held;
    store_.release(node);
    node.value.first_held = node.value.last_held = nullptr;
    return chain;
  }

  template <class Dropped>
  void expire(std::uint64_t now_ns, Dropped&& dropped) {
    if (now_ns < hold_ns_) return;
    store_.expire(now_ns - hold_ns_, [&](Node& node) { dropped(detach(node)); });
  }
  template <class Dropped>
  void clear(Dropped&& dropped) {
    store_.expire(~std::uint64_t{0}, [&](Node& node) { dropped(detach(node)); });
  }

 private:
  // 64 KiB in fragments of 1480 octets, with room for smaller ones.
  static constexpr std::uint32_t kHeldPerDatagram = 64;

  Store store_;
  std::uint64_t hold_ns_;
};

}  // namespace lw
