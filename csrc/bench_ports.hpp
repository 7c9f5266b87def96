// A tester at the two ends of a router: sends the frames of up to two streams at a rate, and judges what comes back.
//
// Its loops run from the first to the last, on one lcore or shared out over up to four (sending and receiving of either
// direction). The control side hears what is no test frame but ARP or neighbour discovery, and sends what it answers.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bench_forward.hpp"
#include "bench_judge.hpp"
#include "bench_stream.hpp"
#include "quiescence.hpp"
#include "record_ring.hpp"

namespace lw::bench {

struct OctetsTag {};
using OctetsRing = RecordRing<OctetsTag>;

// What was sent of one stream in one trial.
struct Sent {
  std::uint64_t frames{};
  std::uint64_t began_tsc{}, ended_tsc{};
  std::uint64_t worst_lag{};              // cycles that a burst left behind its time
  std::vector<std::uint32_t> by_binding;  // frames
};

class Tester {
 public:
  struct Setup {
    std::vector<std::string> devices;  // towards the internet, towards the softwires
    std::uint32_t mbufs;
    std::uint16_t data_room;
    std::vector<std::uint16_t> mtus;
    std::vector<unsigned> lcores;  // one to four
  };
  struct Trial {
    std::uint16_t number;
    std::vector<Stream> streams;  // one or two, of different directions
    double rate;                  // frames a second of each
    Judge::Tags tags;
  };
  struct Result {
    std::array<Sent, 2> sent;      // by the side that sends
    std::array<Ledger, 2> ledger;  // by the side that receives
  };

  explicit Tester(const Setup& setup);
  ~Tester();
  Tester(const Tester&) = delete;
  Tester& operator=(const Tester&) = delete;

  // One trial at a time. std::logic_error otherwise.
  void begin(Trial trial);
  bool sending() const;   // some frames are still to be sent
  bool complete() const;  // all were sent, and are back as they must be
  Result finish();        // sends no more, listens no more

  std::vector<std::vector<std::uint8_t>> heard(SideId side);    // ARP and neighbour discovery
  bool send(SideId side, std::span<const std::uint8_t> frame);  // false: too many wait
  Mac mac(SideId side) const { return ports_.port(side).station_mac(); }
  PortLink link(SideId side) const { return ports_.port(side).link(); }
  std::string remark(SideId side) const { return ports_.port(side).remark(); }

 private:
  struct Sending {
    const Stream& stream;
    double cycles_a_frame;
    Sent sent{};
    std::uint64_t made{};
    std::array<rte_mbuf*, Lane::kBurst> waiting{};  // made, and not taken by the port
    unsigned waits{};
    std::atomic<bool> done{};
  };
  struct Side {
    std::atomic<Sending*> sending{};
    std::atomic<Judge*> judge{};
    std::atomic<std::uint64_t> right{};  // of the judge's ledger, for others to read
    OctetsRing heard{1 << 18};
    OctetsRing answers{1 << 18};
  };
  struct Loop {
    Tester* tester;
    unsigned number;
    unsigned lcore;
    std::vector<unsigned> works;  // 2 * side + (0 to send, 1 to receive)
  };
  static int run(void* loop);
  void turn_of(unsigned work);
  void send_answers(SideId side);
  void send_due(SideId side, Sending& sending);
  bool make_burst(Sending& sending, std::uint64_t now);
  void receive(SideId side);
  void hear(SideId side, const rte_mbuf* frame);
  static SideId other(SideId side) { return side == SideId::v4 ? SideId::v6 : SideId::v4; }
  Side& at(SideId side) { return sides_[static_cast<unsigned>(side)]; }
  void end_loops();

  Ports ports_;
  std::array<Side, 2> sides_;
  Quiescence quiescence_;  // of the loops: when a trial's parts may go
  std::vector<std::unique_ptr<Loop>> loops_;
  std::atomic<bool> stop_{};
  std::optional<Trial> trial_;
  std::array<std::unique_ptr<Sending>, 2> sendings_;
  std::array<std::unique_ptr<Judge>, 2> judges_;
};

}  // namespace lw::bench
