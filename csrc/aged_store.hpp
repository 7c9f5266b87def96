// Entries that are kept for a while, in a bounded number, and fairly: the bookkeeping of both fragment stores.
//
// Two things are shared out, the entries and the buffers that entries hold. A source may have an eighth of either, and
// when one of them is used up a newcomer takes the place of an old entry only of a source that has more of it than the
// newcomer's. So whoever fills the store evicts himself (DP-185).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace lw {

template <class Key, class Value>
class AgedStore {
 public:
  struct Node {
    Key key;
    Value value;
    std::uint64_t since_ns;
    std::uint32_t source;
    std::uint32_t held;  // buffers
    std::uint32_t chain, older, newer;
  };

  AgedStore(std::uint32_t capacity, std::uint32_t held_limit)
      : nodes_(capacity),
        heads_(std::max<std::size_t>(1, std::size_t{capacity} * 2), kNone),
        share_(std::max<std::uint32_t>(1, capacity / 8)),
        held_limit_(held_limit),
        held_share_(std::max(std::min(kLeastHeld, held_limit), held_limit / 8)) {
    for (std::uint32_t i = capacity; i-- > 0;) {
      nodes_[i].chain = free_;
      free_ = i;
    }
  }

  std::uint32_t size() const { return size_; }
  // Nine tenths of the entries or of the buffers are in use.
  bool nearly_full() const { return size_ * 10ULL > nodes_.size() * 9ULL || held_ * 10ULL > held_limit_ * 9ULL; }

  Node* find(const Key& key) {
    for (std::uint32_t i = heads_[key.hash() % heads_.size()]; i != kNone; i = nodes_[i].chain) {
      if (nodes_[i].key == key) return &nodes_[i];
    }
    return nullptr;
  }

  // The key must be absent. Null: refused. `evicted(Node&)` gives back what a displaced entry holds.
  template <class Evicted>
  Node* insert(const Key& key, std::uint64_t source_hash, std::uint64_t now_ns, Evicted&& evicted) {
    const auto source = static_cast<std::uint32_t>(source_hash % kSources);
    if (per_source_[source] >= share_) return nullptr;
    if (free_ == kNone && !evict_for(source, per_source_, kNone, evicted)) return nullptr;
    const std::uint32_t i = free_;
    Node& node = nodes_[i];
    free_ = node.chain;
    std::uint32_t& head = heads_[key.hash() % heads_.size()];
    node = Node{key, Value{}, now_ns, source, 0, head, newest_, kNone};
    head = i;
    (newest_ == kNone ? oldest_ : nodes_[newest_].newer) = i;
    newest_ = i;
    ++per_source_[source];
    ++size_;
    return &node;
  }

  // The entry holds one buffer more. False: refused.
  template <class Evicted>
  bool hold(Node& node, Evicted&& evicted) {
    if (per_source_held_[node.source] >= held_share_) return false;
    if (held_ >= held_limit_ && !evict_for(node.source, per_source_held_, index(node), evicted)) return false;
    ++node.held;
    ++per_source_held_[node.source];
    ++held_;
    return true;
  }
  // It holds none any more.
  void release(Node& node) {
    per_source_held_[node.source] -= node.held;
    held_ -= node.held;
    node.held = 0;
  }

  void erase(Node& node) {
    const std::uint32_t i = index(node);
    release(node);
    std::uint32_t* link = &heads_[node.key.hash() % heads_.size()];
    while (*link != i) link = &nodes_[*link].chain;
    *link = node.chain;
    (node.older == kNone ? oldest_ : nodes_[node.older].newer) = node.newer;
    (node.newer == kNone ? newest_ : nodes_[node.newer].older) = node.older;
    --per_source_[node.source];
    --size_;
    node.chain = free_;
    free_ = i;
  }

  // Erases what came before `limit_ns`; `expired(Node&)` sees each first.
  template <class Expired>
  void expire(std::uint64_t limit_ns, Expired&& expired) {
    while (oldest_ != kNone && nodes_[oldest_].since_ns <= limit_ns) {
      Node& node = nodes_[oldest_];
      expired(node);
      erase(node);
    }
  }

 private:
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};
  static constexpr std::size_t kSources = 4096;
  static constexpr std::uint32_t kLeastHeld = 64;  // one datagram of the default max_fragments
  static constexpr unsigned kLookedAt = 32;        // bounds the work of one eviction

  using PerSource = std::array<std::uint32_t, kSources>;

  std::uint32_t index(const Node& node) const { return static_cast<std::uint32_t>(&node - nodes_.data()); }

  // Evicts an old entry, not `spared`, of a source that has more than `source` of what `owned` counts.
  template <class Evicted>
  bool evict_for(std::uint32_t source, const PerSource& owned, std::uint32_t spared, Evicted&& evicted) {
    const bool buffers = &owned == &per_source_held_;
    std::uint32_t i = oldest_;
    for (unsigned looked = 0; i != kNone && looked < kLookedAt; ++looked, i = nodes_[i].newer) {
      if (i == spared || owned[nodes_[i].source] <= owned[source] || (buffers && nodes_[i].held == 0)) continue;
      evicted(nodes_[i]);
      erase(nodes_[i]);
      return true;
    }
    return false;
  }

  std::vector<Node> nodes_;
  std::vector<std::uint32_t> heads_;
  PerSource per_source_{};
  PerSource per_source_held_{};
  std::uint32_t share_;
  std::uint32_t held_limit_, held_share_;
  std::uint32_t free_{kNone}, oldest_{kNone}, newest_{kNone};
  std::uint32_t size_{}, held_{};
};

}  // namespace lw
