#include "neighbor.hpp"

namespace lw {

namespace {
// RFC 4861 section 10.
constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kRetransTimer = 1 * kSecond;
constexpr std::uint64_t kReachableTime = 30 * kSecond;
constexpr std::uint64_t kDelayFirstProbe = 5 * kSecond;
constexpr unsigned kMaxSolicit = 3;
constexpr std::uint64_t kRoundPause = 10 * kSecond;  // spec 4.15: the next round at the latest after 10 s
}  // namespace

void Neighbor::fix(const Mac& mac) {
  learn(mac, true, 0);
  set(NeighborState::fixed);
}

Mac Neighbor::mac() const {
  const std::uint64_t word = link_.load(std::memory_order_relaxed);
  Mac mac;
  std::memcpy(mac.octets.data(), &word, mac.octets.size());
  return mac;
}

void Neighbor::learn(const Mac& mac, bool confirmed, std::uint64_t now_ns) {
  if (state_.load(std::memory_order_relaxed) == NeighborState::fixed) return;
  const bool same = resolved() && this->mac() == mac;
  std::uint64_t word = 0;
  std::memcpy(&word, mac.octets.data(), mac.octets.size());
  link_.store(word | kUsable, std::memory_order_release);
  if (confirmed) {
    confirm(now_ns);
  } else if (!same) {
    set(NeighborState::stale);
  }
}

void Neighbor::doubt() {
  if (state_.load(std::memory_order_relaxed) == NeighborState::reachable) set(NeighborState::stale);
}

void Neighbor::confirm(std::uint64_t now_ns) {
  if (!resolved() || state_.load(std::memory_order_relaxed) == NeighborState::fixed) return;
  confirmed_ns_.store(now_ns, std::memory_order_relaxed);
  used_.store(false, std::memory_order_relaxed);
  set(NeighborState::reachable);
}

void Neighbor::start(std::uint64_t now_ns) {
  if (state_.load(std::memory_order_relaxed) != NeighborState::none) return;
  set(NeighborState::incomplete);
  tries_ = 0;
  deadline_ns_ = now_ns;
}

void Neighbor::renew(const std::optional<Mac>& mac, std::uint64_t now_ns) {
  set(NeighborState::incomplete);
  tries_ = 0;
  deadline_ns_ = now_ns;
  if (mac) fix(*mac);
}

Neighbor::Ask Neighbor::step_incomplete(std::uint64_t now_ns) {
  const bool in_round = tries_ > 0 && tries_ <= kMaxSolicit;
  if (!in_round && wanted_.load(std::memory_order_relaxed)) {
    tries_ = 0;
    deadline_ns_ = now_ns;
  }
  wanted_.store(false, std::memory_order_relaxed);
  if (now_ns < deadline_ns_) return Ask::nothing;
  if (tries_ == kMaxSolicit) {
    link_.fetch_and(~kUsable, std::memory_order_release);  // of a next hop that is no more (renew)
    failed_rounds_.fetch_add(1, std::memory_order_release);
    tries_ = kMaxSolicit + 1;
    deadline_ns_ = now_ns + kRoundPause;
    return Ask::nothing;
  }
  tries_ = tries_ > kMaxSolicit ? 1 : tries_ + 1;
  deadline_ns_ = now_ns + kRetransTimer;
  return Ask::group;
}

Neighbor::Ask Neighbor::step_probe(std::uint64_t now_ns) {
  if (now_ns < deadline_ns_) return Ask::nothing;
  if (tries_ == kMaxSolicit) {
    link_.fetch_and(~kUsable, std::memory_order_release);
    set(NeighborState::incomplete);
    tries_ = 0;
    return Ask::nothing;
  }
  ++tries_;
  deadline_ns_ = now_ns + kRetransTimer;
  return Ask::direct;
}

Neighbor::Ask Neighbor::step(std::uint64_t now_ns) {
  switch (state_.load(std::memory_order_relaxed)) {
    case NeighborState::fixed:
      return Ask::nothing;
    case NeighborState::none:
      if (!wanted_.load(std::memory_order_relaxed)) return Ask::nothing;
      start(now_ns);
      return step_incomplete(now_ns);
    case NeighborState::incomplete:
      return step_incomplete(now_ns);
    case NeighborState::reachable:
      if (now_ns - confirmed_ns_.load(std::memory_order_relaxed) >= kReachableTime) {
        used_.store(false, std::memory_order_relaxed);
        set(NeighborState::stale);
      }
      return Ask::nothing;
    case NeighborState::stale:
      if (used_.load(std::memory_order_relaxed)) {
        deadline_ns_ = now_ns + kDelayFirstProbe;
        set(NeighborState::delay);
      }
      return Ask::nothing;
    case NeighborState::delay:
      if (now_ns >= deadline_ns_) {
        tries_ = 0;
        set(NeighborState::probe);
      }
      return Ask::nothing;
    case NeighborState::probe:
      return step_probe(now_ns);
  }
  return Ask::nothing;
}

}  // namespace lw
