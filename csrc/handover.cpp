#include "handover.hpp"

#include <rte_mbuf.h>
#include <rte_prefetch.h>
#include <rte_ring.h>

#include <atomic>
#include <string>

#include "eal.hpp"
#include "packet.hpp"

namespace lw {

namespace {

// The role travels in the low bits of the frame's address, which are 0.
constexpr std::uintptr_t kRole = 3;
static_assert(alignof(rte_mbuf) > kRole);

void* tagged(rte_mbuf* frame, PortRole role) {
  return reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(frame) | static_cast<std::uintptr_t>(role));
}
rte_mbuf* frame_of(void* tagged) {
  return reinterpret_cast<rte_mbuf*>(reinterpret_cast<std::uintptr_t>(tagged) & ~kRole);
}
PortRole role_of(void* tagged) { return static_cast<PortRole>(reinterpret_cast<std::uintptr_t>(tagged) & kRole); }

}  // namespace

void Handover::RingFree::operator()(rte_ring* ring) const {
  if (Eal::running()) rte_ring_free(ring);
}

Handover::Handover(unsigned workers, std::uint64_t secret, int numa)
    : workers_(workers), spread_(workers, secret), rings_(std::size_t{workers} * workers), rests_(rings_.size()) {
  static std::atomic<unsigned> number{};
  for (unsigned i = 0; i < rings_.size(); ++i) {
    if (i / workers == i % workers) continue;
    const std::string name = "handover" + std::to_string(number.fetch_add(1));
    rings_[i].reset(rte_ring_create(name.c_str(), kRing, numa, RING_F_SP_ENQ | RING_F_SC_DEQ | RING_F_EXACT_SZ));
    if (!rings_[i]) throw EalError("not enough memory for the rings between workers: reserve more hugepages");
  }
}

unsigned Handover::keep(unsigned self, PortRole role, rte_mbuf** frames, unsigned n, std::uint8_t subscriber_mask) {
  for (unsigned i = 0; i < n; ++i) rte_prefetch0(packet::data(frames[i]));
  unsigned kept = 0;
  for (unsigned i = 0; i < n; ++i) {
    rte_mbuf* frame = frames[i];
    const unsigned owner = spread_.owner(packet::data(frame), frame->data_len, subscriber_mask);
    const bool mine = owner == self || owner == Spread::kAnyone;
    if (mine || rte_ring_sp_enqueue(ring(self, owner), tagged(frame, role)) != 0) frames[kept++] = frame;
  }
  return kept;
}

bool Handover::take(unsigned self, unsigned from, Burst& burst) {
  Rest& rest = rests_[from * workers_ + self];
  if (rest.at == rest.n) {
    rest.at = 0;
    rest.n = rte_ring_sc_dequeue_burst(ring(from, self), rest.tagged.data(), Lane::kBurst, nullptr);
    if (rest.n == 0) return false;
  }
  burst.role = role_of(rest.tagged[rest.at]);
  burst.n = 0;
  while (rest.at < rest.n && role_of(rest.tagged[rest.at]) == burst.role) {
    burst.frames[burst.n++] = frame_of(rest.tagged[rest.at++]);
  }
  return true;
}

void Handover::drain() {
  Burst burst;
  for (unsigned from = 0; from < workers_; ++from) {
    for (unsigned to = 0; to < workers_; ++to) {
      while (from != to && take(to, from, burst)) rte_pktmbuf_free_bulk(burst.frames.data(), burst.n);
    }
  }
}

}  // namespace lw
