#include "numa.hpp"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>

namespace lw::numa {

namespace {

constexpr std::size_t kMostNodes = 1024;
constexpr std::size_t kWord = 8 * sizeof(unsigned long);
using Mask = std::array<unsigned long, kMostNodes / kWord>;
// The kernel takes one off.
constexpr unsigned long kMaskBits = kMostNodes + 1;

bool mask_of(const Nodes& nodes, Mask& mask) {
  mask = {};
  for (const int node : nodes) {
    if (node < 0 || static_cast<std::size_t>(node) >= kMostNodes) return false;
    mask[static_cast<std::size_t>(node) / kWord] |= 1UL << (static_cast<std::size_t>(node) % kWord);
  }
  return true;
}

}  // namespace

std::string text_of(const Nodes& nodes) {
  std::string text = nodes.size() == 1 ? "node " : "nodes ";
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (i > 0) text += i + 1 == nodes.size() ? " and " : ", ";
    text += std::to_string(nodes[i]);
  }
  return text;
}

void Home::place(std::span<std::byte> range) {
  if (nodes_.empty() || range.empty()) return;
  Mask mask;
  const int policy = nodes_.size() == 1 ? MPOL_PREFERRED : MPOL_INTERLEAVE;
  if (!mask_of(nodes_, mask)) {
    refused_ = EINVAL;
  } else if (::syscall(SYS_mbind, range.data(), range.size(), policy, mask.data(), kMaskBits, 0UL) != 0) {
    refused_ = errno;
  }
}

std::vector<std::string> Home::remarks(const std::string& name, std::span<const std::span<std::byte>> ranges) const {
  constexpr std::size_t kSamples = 128;
  std::vector<std::string> all;
  if (nodes_.empty()) return all;
  if (refused_ != 0) {
    all.push_back(name + " was not put on NUMA " + text_of(nodes_) + " (" + std::strerror(refused_) +
                  "): look-ups may be slower");
    return all;
  }
  if (nodes_.size() > 1) {
    all.push_back("workers are on NUMA " + text_of(nodes_) + ", so " + name +
                  " lies on them in turn, and part of the look-ups is slower: choose dataplane.lcores of one node");
  }
  Nodes pages;
  for (const auto range : ranges) {
    const Nodes some = sample(range, kSamples);
    pages.insert(pages.end(), some.begin(), some.end());
  }
  if (std::string text = remark_elsewhere(name, nodes_, pages); !text.empty()) all.push_back(std::move(text));
  return all;
}

Nodes sample(std::span<const std::byte> range, std::size_t samples) {
  constexpr std::uintptr_t kPage = 4096;
  const auto begin = reinterpret_cast<std::uintptr_t>(range.data());
  const std::uintptr_t first = (begin + kPage - 1) / kPage, last = (begin + range.size()) / kPage;
  if (first >= last || samples == 0) return {};
  const std::size_t n = std::min<std::size_t>(samples, last - first);
  std::vector<void*> pages(n);
  for (std::size_t i = 0; i < n; ++i) pages[i] = reinterpret_cast<void*>((first + (last - first) * i / n) * kPage);
  std::vector<int> status(n, -ENOENT);
  if (::syscall(SYS_move_pages, 0, n, pages.data(), nullptr, status.data(), 0) != 0) return {};
  std::erase_if(status, [](int node) { return node < 0; });  // not touched yet
  return status;
}

std::string remark_elsewhere(const std::string& name, const Nodes& nodes, const Nodes& pages) {
  const auto away = static_cast<std::size_t>(
      std::ranges::count_if(pages, [&nodes](int node) { return std::ranges::find(nodes, node) == nodes.end(); }));
  if (away == 0) return {};
  const std::size_t percent = std::max<std::size_t>(1, away * 100 / pages.size());
  return std::to_string(percent) + " % of " + name + " is not on NUMA " + text_of(nodes) +
         " of the workers: that node has too little free memory";
}

Preferring::Preferring(int node) {
  static_assert(sizeof mask_before_ == sizeof(Mask));
  Mask mask;
  active_ = mask_of({node}, mask) &&
            ::syscall(SYS_get_mempolicy, &before_, mask_before_.data(), kMaskBits, nullptr, 0UL) == 0 &&
            ::syscall(SYS_set_mempolicy, MPOL_PREFERRED, mask.data(), kMaskBits) == 0;
}

Preferring::~Preferring() {
  if (active_) (void)::syscall(SYS_set_mempolicy, before_, mask_before_.data(), kMaskBits);
}

}  // namespace lw::numa
