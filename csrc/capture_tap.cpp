#include "capture_tap.hpp"

#include <rte_cycles.h>
#include <rte_errno.h>
#include <rte_mbuf.h>
#include <rte_ring.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "capture.hpp"
#include "filter.hpp"
#include "headers.hpp"
#include "packet.hpp"

namespace lw {
namespace {

constexpr std::uint32_t kFewest = 64;  // buffers: less than a burst is no capture
constexpr const char* kOneUserAtEachEnd = "ring_sp_sc";

void increment(std::atomic<std::uint64_t>& count) {
  count.store(count.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

}  // namespace

std::uint32_t CaptureTap::buffer_octets(std::uint32_t snap) {
  return RTE_PKTMBUF_HEADROOM + RTE_ALIGN(snap, 64U) + kRoomBehind;
}

CaptureTap::CaptureTap(const Setup& setup) : setup_(setup) {
  const std::string name = "capture" + std::to_string(setup.worker);
  const auto octets = static_cast<std::uint16_t>(buffer_octets(setup.snap));
  const auto pool_of = [&](std::uint32_t n) {
    return rte_pktmbuf_pool_create_by_ops(name.c_str(), n, 0, packet::kPrivate, octets, SOCKET_ID_ANY,
                                          kOneUserAtEachEnd);
  };
  std::uint32_t n = std::max(setup.buffers, kFewest);
  while ((pool_ = pool_of(n)) == nullptr && n / 2 >= kFewest) n /= 2;
  if (pool_ != nullptr) {
    ring_ = rte_ring_create(name.c_str(), n, SOCKET_ID_ANY, RING_F_SP_ENQ | RING_F_SC_DEQ | RING_F_EXACT_SZ);
  }
  if (ring_ != nullptr) return;
  const std::string why = rte_strerror(rte_errno);
  release();
  throw CaptureError("no memory for the capture's buffers (" + why + "): lower the snap length");
}

void CaptureTap::release() {
  rte_ring_free(std::exchange(ring_, nullptr));
  rte_mempool_free(std::exchange(pool_, nullptr));
}

rte_mbuf* CaptureTap::copy(SideId side, rte_mbuf* frame) {
  if (setup_.filter != nullptr && !passes_untagged(*setup_.filter, frame)) return nullptr;
  Count& count = counts_[static_cast<std::size_t>(side)];
  increment(count.seen);
  rte_mbuf* kept = rte_pktmbuf_copy(frame, pool_, 0, setup_.snap);
  if (kept == nullptr) {
    increment(count.missed);
    return nullptr;
  }
  kept->port = setup_.port[static_cast<std::size_t>(side)];
  *packet::priv<Mark>(kept) = {
      side, false, static_cast<std::uint16_t>(setup_.worker), Counter::count_, packet::length(frame), rte_rdtsc()};
  return kept;
}

void CaptureTap::received(Item& item) noexcept { item.copy = copy(item.side, item.frame); }

// The ring has room for all buffers.
void CaptureTap::ended(Item& item, Counter way) noexcept {
  if (item.copy == nullptr) return;
  rte_mbuf* kept = std::exchange(item.copy, nullptr);
  auto* mark = packet::priv<Mark>(kept);
  mark->side = item.side;
  mark->way = way;
  rte_ring_sp_enqueue(ring_, kept);
}

// A finished frame is changed by nobody but its driver, which has not got it yet.
void CaptureTap::sent(SideId side, const rte_mbuf* frame) noexcept {
  rte_mbuf* kept = copy(side, const_cast<rte_mbuf*>(frame));
  if (kept == nullptr) return;
  packet::priv<Mark>(kept)->sent = true;
  rte_ring_sp_enqueue(ring_, kept);
}

unsigned CaptureTap::take(rte_mbuf** frames, unsigned most) {
  return rte_ring_sc_dequeue_burst(ring_, reinterpret_cast<void**>(frames), most, nullptr);
}

const CaptureTap::Mark& CaptureTap::mark(rte_mbuf* frame) { return *packet::priv<Mark>(frame); }

}  // namespace lw
