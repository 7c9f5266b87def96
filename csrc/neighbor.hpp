// The next hop of one side: who it is on the link and whether it still answers (RFC 826, RFC 4861 section 7.3).
//
// Any lane may learn and read; lane 0 alone turns the crank (step) and sends what it asks for. An unresolved next hop
// is a state, not a failure: rounds of three tries go on for ever (spec 4.15).
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

#include "types.hpp"

namespace lw {

enum class NeighborState : std::uint8_t { none, fixed, incomplete, reachable, stale, delay, probe };

class Neighbor {
 public:
  struct Snapshot {
    NeighborState state;
    Mac mac;
  };
  // What lane 0 has to send now: nothing, a solicitation to the group, or one to the known MAC.
  enum class Ask : std::uint8_t { nothing, group, direct };

  void fix(const Mac& mac);

  // --- any lane ---
  bool resolved() const { return (link_.load(std::memory_order_acquire) & kUsable) != 0; }
  Mac mac() const;
  Snapshot snapshot() const { return {state_.load(std::memory_order_relaxed), mac()}; }
  // A frame was sent to it: a stale entry has to be confirmed (RFC 4861 section 7.3.3).
  void used() {
    if (!used_.load(std::memory_order_relaxed)) used_.store(true, std::memory_order_relaxed);
  }
  // A packet waits for it: the next round starts at once instead of after kRoundPause.
  void want() { wanted_.store(true, std::memory_order_relaxed); }
  // How many rounds ended without an answer; a lane drops what it queued before the last one.
  std::uint32_t failed_rounds() const { return failed_rounds_.load(std::memory_order_acquire); }
  // ARP (RFC 826 merge) and NA with the override flag: the MAC is taken. `confirmed`: it answered our question.
  void learn(const Mac& mac, bool confirmed, std::uint64_t now_ns);
  // NA without override and with another MAC: reachable becomes stale (RFC 4861 section 7.2.5).
  void doubt();
  // NA without link-layer address, solicited: it is still there.
  void confirm(std::uint64_t now_ns);

  // --- lane 0 ---
  Ask step(std::uint64_t now_ns);
  void start(std::uint64_t now_ns);  // the first round, at interface start
  // Another next hop: known by `mac`, or asked for at once. The old MAC serves until the new one answers or a round
  // ends without an answer.
  void renew(const std::optional<Mac>& mac, std::uint64_t now_ns);

 private:
  static constexpr std::uint64_t kUsable = std::uint64_t{1} << 63;
  Ask step_incomplete(std::uint64_t now_ns);
  Ask step_probe(std::uint64_t now_ns);
  void set(NeighborState state) { state_.store(state, std::memory_order_relaxed); }

  std::atomic<std::uint64_t> link_{};
  std::atomic<std::uint64_t> confirmed_ns_{};
  std::atomic<NeighborState> state_{NeighborState::none};
  std::atomic<bool> used_{};
  std::atomic<bool> wanted_{};
  std::atomic<std::uint32_t> failed_rounds_{};
  // lane 0 only
  std::uint64_t deadline_ns_{};
  unsigned tries_{};
};

}  // namespace lw
