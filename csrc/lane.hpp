// One worker's way through the stages: frames of one port in, frames for both sides out.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "binding_table.hpp"
#include "counters.hpp"
#include "punt_ring.hpp"
#include "settings.hpp"

struct rte_mbuf;
struct rte_mempool;

namespace lw {

enum class PortRole : std::uint8_t { v4, v6, both };  // both = on a stick

// Where a lane puts finished frames. Takes ownership of the first `returned value` frames; the lane frees the others.
class FrameSink {
 public:
  virtual std::uint16_t send(SideId side, rte_mbuf** frames, std::uint16_t n) noexcept = 0;

 protected:
  ~FrameSink() = default;
};

// What the port of a side does by itself. Where it does not, the stages do.
struct TxOffloads {
  static constexpr std::uint16_t kAnySegments = 0xffff;
  bool ipv4_checksum{};           // writes the header checksum of frames that ask for it
  std::uint16_t max_segments{1};  // buffers of one frame
};

class Tap;
struct Shared;  // what all lanes have in common: neighbours, rate limits, path MTUs (shared.hpp)

class Lane {
 public:
  struct Parts {
    unsigned index;  // lane 0 also turns the cranks of what is shared: solicitations, announcements
    const Settings& settings;
    const BindingTable& table;
    Shared& shared;
    rte_mempool* pool;  // of packet buffers with the usual headroom and packet::kPrivate octets of private area
    FrameSink& sink;
    Counters& counters;
    std::uint32_t held_limit = 8192;  // buffers that each fragment store may keep; the pool must be larger than both
    PuntRing* punts = nullptr;        // to the control side
    InjectRing* injects = nullptr;    // from it; one lane's
    std::array<TxOffloads, 2> offloads{};  // by SideId
  };
  explicit Lane(const Parts& parts);
  ~Lane();
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  static constexpr unsigned kBurst = 64;
  // One bit for each packet of a burst.
  static constexpr std::uint64_t all_of(unsigned n) {
    return n == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1;
  }

  // n <= kBurst. Takes ownership of the frames. Everything that can leave has been sent on return.
  void receive(PortRole role, rte_mbuf** frames, unsigned n, std::uint64_t now_ns);
  // Timers: fragments, neighbours, announcements. To be called every few milliseconds.
  void tick(std::uint64_t now_ns);
  // Sends what the control side has put into the ring, a burst at most.
  void send_injected(std::uint64_t now_ns);
  bool has_injected() const { return injects_ != nullptr && !injects_->empty(); }
  // From now on under these settings, which have to last as long as they are in use. Not while receive() or tick() run
  // on another thread. The limit of packets in the fragment stores stays.
  void adopt(const Settings& settings);
  // The next hop of a side is another since the last adopt(): it is asked for. Lane 0.
  void renew_next_hop(SideId side, std::uint64_t now_ns);
  // Starts the announcements of own addresses (lane 0).
  void interface_up(std::uint64_t now_ns);
  // Lets `tap` watch from the next burst on, null ends it. Not while receive() or tick() run on another thread: a
  // worker applies it between two turns.
  void watch(Tap* tap);
  // True when no packet waits for a next hop.
  bool quiescent() const;
  // Drops and counts everything that is held. After it the lane owns no packet buffer.
  void drop_held();

 private:
  struct Inside;
  std::unique_ptr<Inside> inside_;
  InjectRing* injects_;
};

}  // namespace lw
