#include "bench_source.hpp"

#include <rte_cycles.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>
#include <utility>

#include "bench_pacer.hpp"
#include "eal.hpp"

namespace lw::bench {

// Lines of its own: another worker's is written at each poll too.
struct alignas(64) FrameSource::State {
  Traffic traffic;
  rte_mempool* pool;
  SourceWords& words;
  Pacer pacer;
};

namespace {

std::uint64_t read(std::uint64_t& word) { return std::atomic_ref(word).load(std::memory_order_relaxed); }
void write(std::uint64_t& word, std::uint64_t value) { std::atomic_ref(word).store(value, std::memory_order_relaxed); }

void tell(SourceWords& words, const Pacer& pacer) {
  const Pacer::Counts& counts = pacer.counts();
  write(words.offered, counts.offered);
  write(words.given, counts.given);
  write(words.missed, counts.missed);
  if (pacer.gap() > read(words.longest_gap)) write(words.longest_gap, pacer.gap());
  std::atomic_ref(words.polls)
      .store(counts.polls, std::memory_order_release);  // who sees it sees the counts of that poll
}

// net_null brings a burst, or nothing (no-rx=1): as many are freed or made as the pacer says.
std::uint16_t receive(std::uint16_t, std::uint16_t, rte_mbuf** frames, std::uint16_t n, std::uint16_t most,
                      void* state) {
  auto& [traffic, pool, words, pacer] = *static_cast<FrameSource::State*>(state);
  unsigned due = pacer.poll(rte_rdtsc(), read(words.rate), read(words.ring), most);
  if (due < n) {
    rte_pktmbuf_free_bulk(frames + due, n - due);
  } else if (due > n && rte_pktmbuf_alloc_bulk(pool, frames + n, due - n) != 0) {
    pacer.lose(due - n);
    due = n;
  }
  traffic.choose(read(words.first), read(words.count));
  traffic.write(frames, due);
  tell(words, pacer);
  return static_cast<std::uint16_t>(due);
}

// Of two sources on a queue the second would write over the frames of the first.
class Taken {
 public:
  bool take(std::uint16_t port, std::uint16_t queue) {
    const std::scoped_lock lock(mutex_);
    return queues_.emplace(port, queue).second;
  }
  void give(std::uint16_t port, std::uint16_t queue) {
    const std::scoped_lock lock(mutex_);
    queues_.erase({port, queue});
  }

 private:
  std::mutex mutex_;
  std::set<std::pair<std::uint16_t, std::uint16_t>> queues_;
};
Taken taken;

std::string name_of(std::uint16_t port, std::uint16_t queue) {
  return "port " + std::to_string(port) + ", queue " + std::to_string(queue) + ": ";
}

void check(std::uint16_t port, std::uint16_t queue) {
  rte_eth_dev_info info{};
  if (rte_eth_dev_info_get(port, &info) != 0) throw EalError(name_of(port, queue) + "there is no such port");
  if (std::strcmp(info.driver_name, "net_null") != 0) {
    throw EalError(name_of(port, queue) +
                   "a source of traffic takes the place of a net_null port's wire, and this is " + info.driver_name);
  }
  if (queue >= info.nb_rx_queues) throw EalError(name_of(port, queue) + "there is no such receive queue");
}

}  // namespace

FrameSource::FrameSource(std::uint16_t port, std::uint16_t queue, const Traffic::Plan& plan, const std::string& pool,
                         SourceWords& words)
    : port_(port), queue_(queue) {
  if (!Eal::running()) throw EalError("DPDK has to be started before a source of traffic: call eal_init first");
  check(port, queue);
  rte_mempool* const buffers = rte_mempool_lookup(pool.c_str());
  if (buffers == nullptr) throw EalError("there is no pool of packet buffers named " + pool);
  auto state = std::make_unique<State>(State{Traffic(plan), buffers, words, Pacer(rte_get_tsc_hz())});
  words.offered = words.given = words.missed = words.longest_gap = words.polls = 0;
  if (!taken.take(port, queue)) throw EalError(name_of(port, queue) + "there is a source on it already");
  callback_ = rte_eth_add_rx_callback(port, queue, receive, state.get());
  if (callback_ == nullptr) {
    taken.give(port, queue);
    throw EalError(name_of(port, queue) + "DPDK takes no callback here");
  }
  state_ = state.release();
}

void FrameSource::detach() {
  if (callback_ == nullptr) return;
  const rte_eth_rxtx_callback* const callback = std::exchange(callback_, nullptr);
  if (Eal::running()) rte_eth_remove_rx_callback(port_, queue_, callback);
  taken.give(port_, queue_);
}

}  // namespace lw::bench
