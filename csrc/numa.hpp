// Where memory lies on a machine of several NUMA nodes: a look-up in the memory of another node takes up to twice as
// long.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace lw::numa {

using Nodes = std::vector<int>;  // ascending; none: the machine has one node, or it does not matter

std::string text_of(const Nodes& nodes);  // "node 1", "nodes 0 and 1"

// Where the memory of one owner shall come from, and what became of that.
//
// Pages of one node are preferred from there, not bound to it: where the node has no more, memory of another one is
// slow, and none at all is the end of the router. Of several nodes they come in turn. Whether it went so is looked up
// among the pages that are there.
class Home {
 public:
  explicit Home(Nodes nodes) : nodes_(std::move(nodes)) {}

  const Nodes& nodes() const { return nodes_; }
  // Before the range is touched.
  void place(std::span<std::byte> range);
  // Sentences for the operator, about memory of this name in these ranges. Any thread may ask that keeps them there.
  std::vector<std::string> remarks(const std::string& name, std::span<const std::span<std::byte>> ranges) const;

 private:
  Nodes nodes_;
  std::atomic<int> refused_{};  // errno
};

// On which nodes pages of the range are, of up to `samples` that have been touched.
Nodes sample(std::span<const std::byte> range, std::size_t samples);
// The sentence about pages of which so many are elsewhere; empty: all is well.
std::string remark_elsewhere(const std::string& name, const Nodes& nodes, const Nodes& pages);

// Memory that this thread touches for the first time comes from the node while this lives. Below 0: as always.
class Preferring {
 public:
  explicit Preferring(int node);
  ~Preferring();
  Preferring(const Preferring&) = delete;
  Preferring& operator=(const Preferring&) = delete;

 private:
  static constexpr std::size_t kMostNodes = 1024;  // of the kernel's largest configuration
  bool active_{};
  int before_{};
  std::array<unsigned long, kMostNodes / (8 * sizeof(unsigned long))> mask_before_{};
};

}  // namespace lw::numa
