#include "bench_ports.hpp"

#include <rte_cycles.h>
#include <rte_ethdev.h>
#include <rte_launch.h>
#include <rte_mbuf.h>
#include <rte_pause.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "eal.hpp"
#include "packet.hpp"

namespace lw::bench {

namespace {

constexpr unsigned kWorks = 4, kSendBurst = 32;
constexpr std::uint32_t kMostHeard = 1600;  // octets of a frame that the control side gets to see
constexpr std::size_t kMostAtOnce = 4096;   // frames of neighbours for one call

}  // namespace

Tester::Tester(const Setup& setup)
    : ports_(setup.devices, setup.mbufs, setup.data_room, setup.mtus), quiescence_(kWorks) {
  const std::size_t lcores = setup.lcores.size();
  if (setup.devices.size() != 2 || lcores == 0 || lcores > kWorks) {
    throw std::invalid_argument("two devices, and one to four lcores");
  }
  for (unsigned i = 0; i < lcores; ++i) loops_.push_back(std::make_unique<Loop>(this, i, setup.lcores[i]));
  // In this order: with two lcores each has a direction, with four each has one end of one.
  constexpr std::array<unsigned, kWorks> kOrder{0, 3, 2, 1};
  for (unsigned i = 0; i < kWorks; ++i) loops_[i * lcores / kWorks]->works.push_back(kOrder[i]);
  for (std::size_t i = 0; i < lcores; ++i) {
    if (rte_eal_remote_launch(run, loops_[i].get(), loops_[i]->lcore) == 0) continue;
    loops_.resize(i);
    end_loops();
    throw EalError("lcore " + std::to_string(setup.lcores[i]) + " does not exist or is busy");
  }
}

Tester::~Tester() {
  if (!Eal::running()) return;
  if (trial_) finish();
  end_loops();
}

void Tester::end_loops() {
  stop_ = true;
  for (const auto& loop : loops_) rte_eal_wait_lcore(loop->lcore);
}

int Tester::run(void* argument) {
  Loop& loop = *static_cast<Loop*>(argument);
  Tester& tester = *loop.tester;
  tester.quiescence_.begin(loop.number);
  while (!tester.stop_.load(std::memory_order_relaxed)) {
    tester.quiescence_.quiescent(loop.number);
    for (const unsigned work : loop.works) tester.turn_of(work);
    rte_pause();
  }
  tester.quiescence_.end(loop.number);
  return 0;
}

void Tester::turn_of(unsigned work) {
  const SideId side = work / 2 == 0 ? SideId::v4 : SideId::v6;
  if (work % 2 != 0) return receive(side);
  send_answers(side);
  Sending* const sending = at(side).sending.load(std::memory_order_acquire);
  if (sending != nullptr && !sending->done.load(std::memory_order_relaxed)) send_due(side, *sending);
}

void Tester::send_answers(SideId side) {
  OctetsRing::Record record;
  while (at(side).answers.front(record)) {
    rte_mbuf* frame = rte_pktmbuf_alloc(ports_.pool());
    if (frame == nullptr) return;
    packet::fill(frame, record.octets, static_cast<std::uint16_t>(record.length));
    at(side).answers.pop();
    if (rte_eth_tx_burst(ports_.id(side), 0, &frame, 1) == 0) rte_pktmbuf_free(frame);
  }
}

// What is due by now, a burst at most, so that a receiver on the same lcore has its turn. A burst that the port does
// not take is tried again: the router is measured, not this port's queue.
void Tester::send_due(SideId side, Sending& sending) {
  const std::uint64_t now = rte_rdtsc();
  if (sending.sent.began_tsc == 0) sending.sent.began_tsc = now;
  if (sending.waits == 0 && !make_burst(sending, now)) return;
  const std::uint64_t stamp = rte_rdtsc();
  for (unsigned i = 0; i < sending.waits; ++i) sending.stream.stamp(packet::data(sending.waiting[i]), stamp);
  const unsigned taken =
      rte_eth_tx_burst(ports_.id(side), 0, sending.waiting.data(), static_cast<std::uint16_t>(sending.waits));
  if (taken == 0) return;
  std::copy(sending.waiting.begin() + taken, sending.waiting.begin() + sending.waits, sending.waiting.begin());
  sending.waits -= taken;
  Sent& sent = sending.sent;
  const auto due = static_cast<std::uint64_t>(static_cast<double>(sent.frames) * sending.cycles_a_frame);
  if (stamp - sent.began_tsc > due) sent.worst_lag = std::max(sent.worst_lag, stamp - sent.began_tsc - due);
  sent.frames += taken;
  sent.ended_tsc = stamp;
  if (sent.frames == sending.stream.frames()) sending.done.store(true, std::memory_order_release);
}

// False: nothing is due, or there are no buffers.
bool Tester::make_burst(Sending& sending, std::uint64_t now) {
  const Stream& stream = sending.stream;
  const double passed = static_cast<double>(now - sending.sent.began_tsc);
  const std::uint64_t due =
      std::min(stream.frames(), static_cast<std::uint64_t>(passed / sending.cycles_a_frame) + 1);  // the first at once
  if (due <= sending.made) return false;
  const auto n = static_cast<unsigned>(std::min<std::uint64_t>(kSendBurst, due - sending.made));
  if (rte_pktmbuf_alloc_bulk(ports_.pool(), sending.waiting.data(), n) != 0) return false;
  for (unsigned i = 0; i < n; ++i) stream.prefetch(sending.made + i);
  for (unsigned i = 0; i < n; ++i) {
    rte_mbuf* const frame = sending.waiting[i];
    const std::uint64_t number = sending.made + i;
    frame->data_len = stream.octets(number);
    frame->pkt_len = frame->data_len;
    ++sending.sent.by_binding[stream.write(number, packet::data(frame))];
  }
  sending.made += n;
  sending.waits = n;
  return true;
}

void Tester::receive(SideId side) {
  std::array<rte_mbuf*, Lane::kBurst> frames;
  const std::uint16_t n = rte_eth_rx_burst(ports_.id(side), 0, frames.data(), frames.size());
  if (n == 0) return;
  const std::uint64_t now = rte_rdtsc();
  Judge* const judge = at(side).judge.load(std::memory_order_acquire);
  // Between trials only neighbours are heard.
  Judge deaf(side, 0, nullptr, {});
  Judge& seen_by = judge == nullptr ? deaf : *judge;
  for (std::uint16_t i = 0; i < n; ++i) seen_by.prefetch(packet::data(frames[i]), packet::window(frames[i]));
  for (std::uint16_t i = 0; i < n; ++i) {
    // The rest of a frame in several buffers is not looked at, but its length counts.
    const std::uint32_t length =
        frames[i]->data_len < packet::kWindow ? packet::window(frames[i]) : packet::length(frames[i]);
    if (seen_by.see(packet::data(frames[i]), length, now) == Judge::Kind::neighbour) hear(side, frames[i]);
  }
  if (judge != nullptr) at(side).right.store(judge->ledger().right, std::memory_order_relaxed);
  rte_pktmbuf_free_bulk(frames.data(), n);
}

void Tester::hear(SideId side, const rte_mbuf* frame) {
  if (packet::length(frame) > kMostHeard || frame->nb_segs != 1) return;
  std::uint8_t* const room = at(side).heard.begin(packet::length(frame));
  if (room == nullptr) return;
  packet::copy_out(frame, 0, room, packet::length(frame));
  at(side).heard.commit({});
}

void Tester::begin(Trial trial) {
  if (trial_) throw std::logic_error("a trial is under way");
  if (!(trial.rate > 0) || trial.tags.every == 0) throw std::invalid_argument("rate and tags: more than 0");
  trial_.emplace(std::move(trial));
  std::array<const Stream*, 2> to_send{};
  for (const Stream& stream : trial_->streams) to_send[stream.direction() == Direction::encap ? 0 : 1] = &stream;
  for (const SideId side : {SideId::v4, SideId::v6}) {
    const auto i = static_cast<unsigned>(side);
    judges_[i] =
        std::make_unique<Judge>(side, trial_->number, to_send[static_cast<unsigned>(other(side))], trial_->tags);
    at(side).right.store(0, std::memory_order_relaxed);
    at(side).judge.store(judges_[i].get(), std::memory_order_release);
  }
  for (const SideId side : {SideId::v4, SideId::v6}) {
    const auto i = static_cast<unsigned>(side);
    if (to_send[i] == nullptr) continue;
    sendings_[i] = std::make_unique<Sending>(*to_send[i], static_cast<double>(tsc_hz()) / trial_->rate);
    sendings_[i]->sent.by_binding.resize(to_send[i]->bindings());
  }
  for (const SideId side : {SideId::v4, SideId::v6}) {
    at(side).sending.store(sendings_[static_cast<unsigned>(side)].get(), std::memory_order_release);
  }
}

bool Tester::sending() const {
  return std::any_of(sendings_.begin(), sendings_.end(),
                     [](const auto& one) { return one != nullptr && !one->done.load(std::memory_order_acquire); });
}

bool Tester::complete() const {
  for (const SideId side : {SideId::v4, SideId::v6}) {
    const auto& sending = sendings_[static_cast<unsigned>(side)];
    const std::uint64_t right = sides_[static_cast<unsigned>(other(side))].right.load(std::memory_order_relaxed);
    if (sending != nullptr && right < sending->stream.frames()) return false;
  }
  return true;
}

Tester::Result Tester::finish() {
  if (!trial_) throw std::logic_error("no trial is under way");
  for (Side& side : sides_) {
    side.sending.store(nullptr, std::memory_order_release);
    side.judge.store(nullptr, std::memory_order_release);
  }
  quiescence_.wait();
  Result result;
  for (unsigned i = 0; i < 2; ++i) {
    if (sendings_[i] != nullptr) {
      rte_pktmbuf_free_bulk(sendings_[i]->waiting.data(), sendings_[i]->waits);
      result.sent[i] = std::move(sendings_[i]->sent);
    }
    if (judges_[i] != nullptr) result.ledger[i] = std::move(judges_[i]->ledger());
    sendings_[i].reset();
    judges_[i].reset();
  }
  trial_.reset();
  return result;
}

std::vector<std::vector<std::uint8_t>> Tester::heard(SideId side) {
  std::vector<std::vector<std::uint8_t>> frames;
  OctetsRing::Record record;
  while (frames.size() < kMostAtOnce && at(side).heard.front(record)) {
    frames.emplace_back(record.octets, record.octets + record.length);
    at(side).heard.pop();
  }
  return frames;
}

bool Tester::send(SideId side, std::span<const std::uint8_t> frame) {
  std::uint8_t* const room = at(side).answers.begin(static_cast<std::uint32_t>(frame.size()));
  if (room == nullptr) return false;
  std::copy(frame.begin(), frame.end(), room);
  at(side).answers.commit({});
  return true;
}

}  // namespace lw::bench
