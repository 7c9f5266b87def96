// Entries that are kept for a while, in a bounded number, and fairly: the bookkeeping of both fragment stores.
//
// Fairness: a source may hold at most its share, and when the store is full a newcomer takes the place of an old entry
// only of a source that holds more than the newcomer's does. So whoever fills the store evicts himself (DP-185).
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
    std::uint32_t chain, older, newer;
  };

  explicit AgedStore(std::uint32_t capacity)
      : nodes_(capacity), heads_(std::max<std::size_t>(1, std::size_t{capacity} * 2), kNone),
        share_(std::max<std::uint32_t>(1, capacity / 8)) {
    for (std::uint32_t i = capacity; i-- > 0;) {
      nodes_[i].chain = free_;
      free_ = i;
    }
  }

  std::uint32_t size() const { return size_; }
  std::uint32_t capacity() const { return static_cast<std::uint32_t>(nodes_.size()); }

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
    if (free_ == kNone && !evict_for(source, evicted)) return nullptr;
    const std::uint32_t i = free_;
    Node& node = nodes_[i];
    free_ = node.chain;
    std::uint32_t& head = heads_[key.hash() % heads_.size()];
    node = Node{key, Value{}, now_ns, source, head, newest_, kNone};
    head = i;
    (newest_ == kNone ? oldest_ : nodes_[newest_].newer) = i;
    newest_ = i;
    ++per_source_[source];
    ++size_;
    return &node;
  }

  void erase(Node& node) {
    const auto i = static_cast<std::uint32_t>(&node - nodes_.data());
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
  static constexpr unsigned kLookedAt = 32;  // bounds the work of one eviction

  template <class Evicted>
  bool evict_for(std::uint32_t source, Evicted&& evicted) {
    std::uint32_t i = oldest_;
    for (unsigned looked = 0; i != kNone && looked < kLookedAt; ++looked, i = nodes_[i].newer) {
      if (per_source_[nodes_[i].source] <= per_source_[source]) continue;
      evicted(nodes_[i]);
      erase(nodes_[i]);
      return true;
    }
    return false;
  }

  std::vector<Node> nodes_;
  std::vector<std::uint32_t> heads_;
  std::array<std::uint32_t, kSources> per_source_{};
  std::uint32_t share_;
  std::uint32_t free_{kNone}, oldest_{kNone}, newest_{kNone};
  std::uint32_t size_{};
};

}  // namespace lw
