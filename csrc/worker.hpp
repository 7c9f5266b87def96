// One poll loop on one lcore: receives from its queues, drives its lane, sends what the lane hands out.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "handover.hpp"
#include "lane.hpp"
#include "quiescence.hpp"

namespace lw {

struct RxQueue {
  std::uint16_t port;
  std::uint16_t queue;
  PortRole role;
};

struct TxQueue {
  std::uint16_t port{};
  std::uint16_t queue{};
  bool completes{};  // the port writes what frames leave open, and wants to prepare them for it
};

// Nanoseconds from the time stamp counter; one multiplication, exact to 2^-32.
class TscClock {
 public:
  explicit TscClock(std::uint64_t hz) : scale_((__uint128_t{1'000'000'000} << 32) / hz) {}
  std::uint64_t ns(std::uint64_t cycles) const { return static_cast<std::uint64_t>((cycles * scale_) >> 32); }

 private:
  __uint128_t scale_;
};

class Worker final : public FrameSink {
 public:
  struct Wiring {
    std::vector<RxQueue> rx;
    TxQueue v4;
    TxQueue v6;
  };
  static constexpr std::size_t kMostRx = 4;
  // What a watcher may know while the loop runs.
  struct Progress {
    std::uint64_t received;
    bool quiescent;  // nothing waits inside for a next hop, seen after the last of `received`
  };

  Worker(Wiring wiring, std::uint64_t tsc_hz, Counters& counters);
  ~Worker() = default;

  // The lane needs its sink first.
  void attach(Lane& lane, const Settings& settings) {
    lane_ = &lane;
    settings_.store(&settings, std::memory_order_relaxed);
    adopted_.store(&settings, std::memory_order_relaxed);
  }
  // Frames of other workers go to them, and theirs come. Before run().
  void spread(Handover& handover) { handover_ = &handover; }
  // Writers wait for the turns of this loop under this number. Before run().
  void read_under(Quiescence& quiescence, unsigned self) {
    quiescence_ = &quiescence;
    self_ = self;
  }
  void run();  // on its lcore, until stop(); what the lane still holds is dropped and counted then
  void stop() { stop_.store(true, std::memory_order_relaxed); }
  // The lane is watched from the next tick on, null ends it. `tap` has to last until watched_by() is another or the
  // worker runs no more.
  void watch(Tap* tap) { watch_.store(tap, std::memory_order_release); }
  const Tap* watched_by() const { return watched_by_.load(std::memory_order_acquire); }
  void announce() { announce_.store(true, std::memory_order_relaxed); }
  // The lane goes over to these between two turns, within a tick. Both have to last until adopted() is the new.
  void adopt(const Settings& settings) { settings_.store(&settings, std::memory_order_release); }
  void take_settings(std::uint64_t now_ns);  // on the worker; or anywhere while it does not run
  const Settings* adopted() const { return adopted_.load(std::memory_order_acquire); }
  // The side's next hop is another since the last adopt(). Lane 0's worker.
  void renew_next_hop(SideId side) { renew_[static_cast<unsigned>(side)].store(true, std::memory_order_release); }

  const std::vector<RxQueue>& rx_queues() const { return wiring_.rx; }
  std::uint64_t rx_packets(std::size_t queue) const { return rx_packets_[queue].load(std::memory_order_relaxed); }
  // Since the loop began, until now or its end; what of it was spent on frames is in the counters.
  std::uint64_t cycles() const;
  Progress progress() const;
  bool running() const { return running_.load(std::memory_order_acquire); }

  std::uint16_t send(SideId side, rte_mbuf** frames, std::uint16_t n) noexcept override;

 private:
  bool poll(std::uint64_t now_ns);
  void receive(PortRole role, rte_mbuf** frames, unsigned n, std::uint64_t now_ns);
  bool take_handed_over(std::uint64_t now_ns);
  void tick(std::uint64_t now_ns);

  Wiring wiring_;
  TscClock clock_;
  std::uint64_t tick_cycles_;
  Counters& counters_;
  Lane* lane_{};
  Handover* handover_{};
  Quiescence* quiescence_{};
  unsigned self_{};
  std::array<std::atomic<std::uint64_t>, kMostRx> rx_packets_{};
  std::uint64_t received_{};
  std::atomic<bool> stop_{};
  std::atomic<bool> announce_{};
  std::atomic<Tap*> watch_{};
  std::atomic<Tap*> watched_by_{};
  std::atomic<const Settings*> settings_{};
  std::atomic<const Settings*> adopted_{};
  std::array<std::atomic<bool>, 2> renew_{};
  std::atomic<std::uint64_t> began_{}, ended_{};  // time stamp counter
  std::atomic<bool> running_{};
  // Written once a tick: the reader sees `quiescent_` at least as new as `checked_`.
  alignas(64) std::atomic<std::uint64_t> checked_{};
  std::atomic<bool> quiescent_{};
};

}  // namespace lw
