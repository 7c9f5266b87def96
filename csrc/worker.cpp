#include "worker.hpp"

#include <rte_cycles.h>
#include <rte_ethdev.h>
#include <rte_pause.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

namespace lw {
namespace {

constexpr std::uint64_t kTicksPerSecond = 1000;
constexpr unsigned kSendTries = 4;  // a full queue empties within microseconds, or something is wrong with the link

// Puts frames that the port cannot complete behind the others; how many others there are. Their order stays.
std::uint16_t prepared(const TxQueue& tx, rte_mbuf** frames, std::uint16_t n) {
  const auto open = [](const rte_mbuf* frame) { return (frame->ol_flags & RTE_MBUF_F_TX_OFFLOAD_MASK) != 0; };
  if (std::none_of(frames, frames + n, open)) return n;
  for (std::uint16_t good = 0; good < n;) {
    good = static_cast<std::uint16_t>(
        good + rte_eth_tx_prepare(tx.port, tx.queue, frames + good, static_cast<std::uint16_t>(n - good)));
    if (good == n) break;
    std::rotate(frames + good, frames + good + 1, frames + n);
    --n;
  }
  return n;
}

}  // namespace

Worker::Worker(Wiring wiring, std::uint64_t tsc_hz, Counters& counters)
    : wiring_(std::move(wiring)), clock_(tsc_hz), tick_cycles_(tsc_hz / kTicksPerSecond), counters_(counters) {
  if (wiring_.rx.size() > kMostRx) throw std::invalid_argument("a worker has at most four receive queues");
}

void Worker::run() {
  std::uint64_t next_tick = 0;
  quiescence_->begin(self_);
  began_.store(rte_rdtsc(), std::memory_order_relaxed);
  running_.store(true, std::memory_order_seq_cst);
  while (!stop_.load(std::memory_order_relaxed)) {
    quiescence_->quiescent(self_);
    const std::uint64_t before = rte_rdtsc();
    const std::uint64_t now_ns = clock_.ns(before);
    bool worked = poll(now_ns);
    if (lane_->has_injected()) {
      lane_->send_injected(now_ns);
      worked = true;
    }
    if (worked) {
      counters_.add(Counter::busy_cycles, rte_rdtsc() - before);
    } else {
      counters_.add(Counter::idle_polls);
      rte_pause();
    }
    if (before >= next_tick) {
      next_tick = before + tick_cycles_;
      tick(now_ns);
    }
  }
  lane_->drop_held();
  quiescence_->end(self_);
  ended_.store(rte_rdtsc(), std::memory_order_relaxed);
  running_.store(false, std::memory_order_release);
}

void Worker::receive(PortRole role, rte_mbuf** frames, unsigned n, std::uint64_t now_ns) {
  received_ += n;
  lane_->receive(role, frames, n, now_ns);
}

// True if there was something to do.
bool Worker::poll(std::uint64_t now_ns) {
  bool worked = false;
  std::array<rte_mbuf*, Lane::kBurst> frames;
  for (std::size_t i = 0; i < wiring_.rx.size(); ++i) {
    const RxQueue& rx = wiring_.rx[i];
    const std::uint16_t n = rte_eth_rx_burst(rx.port, rx.queue, frames.data(), frames.size());
    if (n == 0) continue;
    worked = true;
    rx_packets_[i].store(rx_packets_[i].load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
    if (handover_ == nullptr) [[likely]] {
      receive(rx.role, frames.data(), n, now_ns);
      continue;
    }
    const std::uint8_t mask = adopted_.load(std::memory_order_relaxed)->subscriber_mask;
    const unsigned kept = handover_->keep(self_, rx.role, frames.data(), n, mask);
    counters_.add(Counter::handed_over, n - kept);
    if (kept > 0) receive(rx.role, frames.data(), kept, now_ns);
  }
  if (handover_ != nullptr) worked |= take_handed_over(now_ns);
  return worked;
}

bool Worker::take_handed_over(std::uint64_t now_ns) {
  bool worked = false;
  Handover::Burst burst;
  for (unsigned from = 0; from < handover_->workers(); ++from) {
    if (from == self_ || !handover_->take(self_, from, burst)) continue;
    receive(burst.role, burst.frames.data(), burst.n, now_ns);
    worked = true;
  }
  return worked;
}

void Worker::tick(std::uint64_t now_ns) {
  take_settings(now_ns);
  if (announce_.load(std::memory_order_relaxed)) {
    announce_.store(false, std::memory_order_relaxed);
    lane_->interface_up(now_ns);
  }
  if (Tap* const tap = watch_.load(std::memory_order_acquire); tap != watched_by_.load(std::memory_order_relaxed)) {
    lane_->watch(tap);
    watched_by_.store(tap, std::memory_order_release);
  }
  lane_->tick(now_ns);
  quiescent_.store(lane_->quiescent(), std::memory_order_relaxed);
  checked_.store(received_, std::memory_order_release);
}

void Worker::take_settings(std::uint64_t now_ns) {
  const Settings* const settings = settings_.load(std::memory_order_acquire);
  if (settings != adopted_.load(std::memory_order_relaxed)) {
    lane_->adopt(*settings);
    adopted_.store(settings, std::memory_order_release);
  }
  for (const SideId side : {SideId::v4, SideId::v6}) {
    std::atomic<bool>& renew = renew_[static_cast<unsigned>(side)];
    if (renew.load(std::memory_order_relaxed) && renew.exchange(false, std::memory_order_acquire)) {
      lane_->renew_next_hop(side, now_ns);
    }
  }
}

std::uint64_t Worker::cycles() const {
  const std::uint64_t began = began_.load(std::memory_order_relaxed);
  if (began == 0) return 0;
  const std::uint64_t ended = ended_.load(std::memory_order_relaxed);
  return (ended != 0 ? ended : rte_rdtsc()) - began;
}

Worker::Progress Worker::progress() const {
  const std::uint64_t received = checked_.load(std::memory_order_acquire);
  return {received, quiescent_.load(std::memory_order_relaxed)};
}

std::uint16_t Worker::send(SideId side, rte_mbuf** frames, std::uint16_t n) noexcept {
  const TxQueue& tx = side == SideId::v4 ? wiring_.v4 : wiring_.v6;
  if (tx.completes) [[unlikely]] {
    n = prepared(tx, frames, n);
  }
  std::uint16_t sent = 0;
  for (unsigned tries = 0; tries < kSendTries && sent < n; ++tries) {
    if (tries > 0) rte_pause();
    sent = static_cast<std::uint16_t>(
        sent + rte_eth_tx_burst(tx.port, tx.queue, frames + sent, static_cast<std::uint16_t>(n - sent)));
  }
  return sent;
}

}  // namespace lw
