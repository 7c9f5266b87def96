#include "engine.hpp"

#include <rte_cycles.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <ctime>
#include <set>
#include <stdexcept>
#include <thread>
#include <utility>

#include "eal.hpp"
#include "packet.hpp"
#include "telemetry.hpp"

namespace lw {
namespace {

// The NUMA node of a worker; -1 where there is but one.
int node_of(unsigned lcore) { return rte_socket_count() < 2 ? -1 : static_cast<int>(rte_lcore_to_socket_id(lcore)); }

constexpr unsigned kPoolCache = 256;  // four bursts per worker
constexpr std::size_t kPuntOctets =
    2 << 20;  // of a lane: some 10,000 requests, a fifth of a second at the default rate
constexpr std::size_t kInjectOctets = 4 << 20;  // as many answers

int run_worker(void* worker) {
  static_cast<Worker*>(worker)->run();
  return 0;
}

std::uint16_t narrow(std::size_t value) { return static_cast<std::uint16_t>(value); }

}  // namespace

numa::Nodes Engine::nodes_of(const std::vector<unsigned>& lcores) {
  if (!Eal::running()) throw EalError("DPDK has to be started before it knows CPUs: call eal_init first");
  std::set<int> nodes;
  for (const unsigned lcore : lcores) {
    if (rte_lcore_is_enabled(lcore) != 0) nodes.insert(node_of(lcore));
  }
  nodes.erase(-1);
  return {nodes.begin(), nodes.end()};
}

void Engine::PoolFree::operator()(rte_mempool* pool) const {
  if (Eal::running()) rte_mempool_free(pool);
}

Engine::Engine(Settings settings, OwnMac own_mac, BindingTable& table, const Plan& plan)
    : own_mac_(own_mac),
      table_(table),
      plan_(plan),
      shared_(settings, plan.secret),
      punt_(plan.lcores.size(), kPuntOctets),
      inject_(kInjectOctets, std::min<std::uint32_t>(settings.v6.mtu, plan.data_room)) {
  if (!Eal::running()) throw EalError("DPDK has to be started before the engine: call eal_init first");
  open_ports();
  choose_macs(settings);
  settings_ = std::make_unique<const Settings>(std::move(settings));
  const unsigned workers = usable_workers();
  pool_.reset(rte_pktmbuf_pool_create("pylwaftr", plan_.mbufs, kPoolCache, packet::kPrivate,
                                      narrow(plan_.data_room + RTE_PKTMBUF_HEADROOM), ports_.front()->numa()));
  if (!pool_) {
    throw EalError(
        "not enough memory for " + std::to_string(plan_.mbufs) +
        " packet buffers: reserve more hugepages with scripts/hugepages.sh, or set dataplane.hugepages: never");
  }
  configure_ports(workers);
  remark_distance(workers);
  make_workers(workers);
}

Engine::~Engine() { close(); }

void Engine::open_ports() {
  constexpr const char* kWhere[] = {"interfaces.v4.port", "interfaces.v6.port"};
  for (std::size_t i = 0; i < plan_.devices.size(); ++i) {
    ports_.push_back(std::make_unique<Port>(plan_.devices[i], kWhere[i]));
  }
  promiscuous_.assign(ports_.size(), false);
}

void Engine::choose_macs(Settings& settings) {
  const auto choose = [this](Side& side, bool own, std::size_t port) {
    if (own) {
      side.mac = ports_[port]->station_mac();
    } else if (!ports_[port]->use_mac(side.mac)) {
      promiscuous_[port] = true;
    }
  };
  choose(settings.v4, own_mac_.v4, 0);
  if (!one_port()) {
    choose(settings.v6, own_mac_.v6, 1);
  } else if (own_mac_.v6) {
    settings.v6.mac = settings.v4.mac;
  } else if (settings.v6.mac != settings.v4.mac) {
    promiscuous_[0] = true;  // a device filters for one address
  }
  macs_ = {settings.v4.mac, settings.v6.mac};
}

unsigned Engine::usable_workers() {
  auto workers = static_cast<unsigned>(plan_.lcores.size());
  if (plan_.split_queues) workers = 1;
  for (const auto& port : ports_) {
    const auto [rx, tx] = port->limits();
    const unsigned queues = plan_.rss == Rss::software && !plan_.split_queues ? tx : std::min(rx, tx);
    if (rx == 0) throw PortError(port->device() + ": the device has no receive queue");
    const unsigned needed = plan_.split_queues ? 2 : 1;
    if (queues < needed) throw PortError(port->device() + ": the device has too few queues");
    if (queues >= workers) continue;
    remarks_.push_back(port->device() + " has only " + std::to_string(queues) + " queue(s): " + std::to_string(queues) +
                       " of " + std::to_string(workers) + " workers will run");
    workers = queues;
  }
  return workers;
}

void Engine::configure_ports(unsigned workers) {
  const bool inner = plan_.rss == Rss::inner;
  for (std::size_t i = 0; i < ports_.size(); ++i) {
    const Side& side = i == 0 ? settings_->v4 : settings_->v6;
    const std::uint16_t mtu = one_port() ? std::max(settings_->v4.mtu, settings_->v6.mtu) : side.mtu;
    const std::uint16_t tx = plan_.split_queues ? 2 : narrow(workers);
    const bool softwires = i + 1 == ports_.size();
    ports_[i]->configure({.rx_queues = rx_queues(*ports_[i], workers),
                          .tx_queues = tx,
                          .mtu = mtu,
                          .promiscuous = promiscuous_[i],
                          .pool = pool_.get(),
                          .offloads = plan_.offloads,
                          .inner = inner && softwires,
                          .rx_descriptors = plan_.rx_descriptors});
    if (!ports_[i]->remark().empty()) remarks_.push_back(ports_[i]->device() + ": " + ports_[i]->remark());
  }
}

// With software a device may have fewer queues than there are workers.
std::uint16_t Engine::rx_queues(const Port& port, unsigned workers) const {
  return plan_.split_queues ? std::uint16_t{2} : narrow(std::min<std::size_t>(port.limits().rx_queues, workers));
}

Worker::Wiring Engine::wiring(std::uint16_t worker) const {
  const std::uint16_t v4 = ports_.front()->id();
  const std::uint16_t v6 = ports_.back()->id();
  const bool open = ports_.front()->offloads().tx_ipv4_checksum;  // the IPv6 side leaves nothing open
  if (plan_.split_queues) {
    return {{{v4, 0, PortRole::both}, {v6, 1, PortRole::both}}, {v4, 0, open}, {v6, 1}};
  }
  const auto workers = static_cast<unsigned>(counters_.size());
  Worker::Wiring wiring{{}, {v4, worker, open}, {v6, worker}};
  for (std::size_t i = 0; i < ports_.size(); ++i) {
    const PortRole role = one_port() ? PortRole::both : i == 0 ? PortRole::v4 : PortRole::v6;
    if (worker < rx_queues(*ports_[i], workers)) wiring.rx.push_back({ports_[i]->id(), worker, role});
  }
  return wiring;
}

void Engine::remark_distance(unsigned workers) {
  for (unsigned i = 0; i < workers; ++i) {
    const auto node = static_cast<int>(rte_lcore_to_socket_id(plan_.lcores[i]));
    for (const auto& port : ports_) {
      if (port->numa() < 0 || port->numa() == node) continue;
      remarks_.push_back(port->device() + " is on NUMA node " + std::to_string(port->numa()) + " and worker lcore " +
                         std::to_string(plan_.lcores[i]) + " on node " + std::to_string(node) +
                         ": choose dataplane.lcores of the port's node");
    }
  }
}

void Engine::make_workers(unsigned workers) {
  const auto of_port = [](const Port& port) {
    return TxOffloads{port.offloads().tx_ipv4_checksum, port.offloads().tx_segments};
  };
  counters_ = std::vector<Counters>(workers);
  quiescence_ = std::make_unique<Quiescence>(workers);
  if (plan_.rss == Rss::software && workers > 1) {
    handover_ = std::make_unique<Handover>(workers, plan_.secret, ports_.front()->numa());
  }
  for (unsigned i = 0; i < workers; ++i) {
    const numa::Preferring of_worker(node_of(plan_.lcores[i]));  // what it keeps of its own
    workers_.push_back(std::make_unique<Worker>(wiring(narrow(i)), rte_get_tsc_hz(), counters_[i]));
    const Lane::Parts parts{i,
                            *settings_,
                            table_,
                            shared_,
                            pool_.get(),
                            *workers_[i],
                            counters_[i],
                            plan_.held_limit,
                            &punt_.ring(i),
                            i == 0 ? &inject_.ring() : nullptr,
                            {of_port(*ports_.front()), of_port(*ports_.back())}};
    lanes_.push_back(std::make_unique<Lane>(parts));
    workers_[i]->attach(*lanes_[i], *settings_);
    workers_[i]->read_under(*quiescence_, i);
    if (handover_) workers_[i]->spread(*handover_);
  }
  std::vector<Worker*> all;
  for (const auto& worker : workers_) all.push_back(worker.get());
  capture_ = std::make_unique<Capture>(std::move(all), std::array{ports_.front()->id(), ports_.back()->id()});
}

void Engine::start() {
  std::unique_lock control(control_);
  if (workers_.empty() || std::exchange(started_, true))
    throw EalError("an engine is started once, before it is closed");
  for (const auto& port : ports_) port->start();
  table_.set_grace([this] { quiescence_->wait(); });
  running_ = true;
  for (std::size_t i = 0; i < workers_.size(); ++i) {
    if (rte_eal_remote_launch(run_worker, workers_[i].get(), plan_.lcores[i]) != 0) {
      control.unlock();
      stop();
      throw EalError("worker lcore " + std::to_string(plan_.lcores[i]) + " does not exist or is busy");
    }
  }
}

void Engine::stop() {
  const std::scoped_lock control(control_);
  if (!running_.exchange(false)) return;
  capture_->close();
  for (const auto& worker : workers_) worker->stop();
  for (std::size_t i = 0; i < workers_.size(); ++i) rte_eal_wait_lcore(plan_.lcores[i]);
  table_.set_grace({});
  if (handover_) handover_->drain();
  for (const auto& port : ports_) port->stop();
}

void Engine::close() {
  telemetry::forget(*this);
  if (Eal::running()) stop();
  punt_.close();
  const std::scoped_lock control(control_);
  lanes_.clear();
  workers_.clear();
  handover_.reset();
  ports_.clear();
  pool_.reset();
}

void Engine::announce() {
  announced_ = true;
  if (!workers_.empty()) workers_.front()->announce();
}

void Engine::check_change(Settings& next, OwnMac own_mac) const {
  const std::vector<std::string> fixed = fixed_fields(*settings_, own_mac_, next, own_mac);
  if (fixed.empty()) return;
  std::string text = "settings: only a restart can change ";
  for (std::size_t i = 0; i < fixed.size(); ++i) text += (i > 0 ? ", " : "") + fixed[i];
  throw std::invalid_argument(text);
}

// The workers never wait: each goes over between two turns, and the old settings go when all have.
void Engine::swap_settings(std::unique_ptr<const Settings> next) {
  for (std::size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->adopt(*next);
    if (!running_) workers_[i]->take_settings(0);
  }
  for (const auto& worker : workers_) {
    while (worker->adopted() != next.get()) std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  settings_ = std::move(next);
}

std::vector<std::string> Engine::apply(Settings next, OwnMac own_mac) {
  const std::scoped_lock control(control_);
  check_change(next, own_mac);
  BindingTable::Own own;
  for (const Address4& address : next.v4_addresses) own.v4.push_back(address.address);
  for (const Address6& address : next.v6_addresses) own.v6.push_back(address.address);
  own.v6.insert(own.v6.end(), next.br_addresses.begin(), next.br_addresses.end());
  if (!table_.set_own(std::move(own))) {
    throw std::invalid_argument("settings: addresses: a binding has one of the own addresses: unbind it first");
  }
  const bool anew = announced_anew(*settings_, next);
  const std::vector<SideId> next_hops = changed_next_hops(*settings_, next);
  swap_settings(std::make_unique<const Settings>(std::move(next)));
  // After all workers have the new settings: none may still learn the MAC of the old next hop.
  if (!workers_.empty()) {
    for (const SideId side : next_hops) workers_.front()->renew_next_hop(side);
    if (anew && announced_) workers_.front()->announce();
  }
  std::vector<std::string> remarks;
  if (const std::size_t others = table_.count_other_brs(settings_->br_addresses); others > 0) {
    remarks.push_back(std::to_string(others) +
                      " bindings name a BR address that is not served: add it to br_addresses");
  }
  return remarks;
}

Punt::Batch Engine::punted() {
  Punt::Batch batch = punt_.take();
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  const std::uint64_t monotonic =
      static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
  const std::uint64_t offset = monotonic - TscClock(rte_get_tsc_hz()).ns(rte_rdtsc());
  for (PuntRow& row : batch.rows) row.at_ns += offset;
  return batch;
}

std::size_t Engine::inject(std::span<const std::uint8_t> packets, std::span<const std::uint32_t> lengths) {
  return running_ ? inject_.send(packets, lengths) : 0;
}

std::vector<Engine::WorkerStats> Engine::worker_stats() const {
  std::vector<WorkerStats> all;
  for (std::size_t i = 0; i < workers_.size(); ++i) {
    const Worker& worker = *workers_[i];
    WorkerStats& stats = all.emplace_back();
    stats.lcore = plan_.lcores[i];
    stats.numa = static_cast<int>(rte_lcore_to_socket_id(stats.lcore));
    stats.running = worker.running();
    stats.busy_cycles = counters_[i].get(Counter::busy_cycles);
    stats.idle_cycles = std::max(worker.cycles(), stats.busy_cycles) - stats.busy_cycles;
    for (std::size_t queue = 0; queue < worker.rx_queues().size(); ++queue) {
      const RxQueue& rx = worker.rx_queues()[queue];
      stats.queues.push_back({rx.port, rx.queue, worker.rx_packets(queue)});
    }
  }
  return all;
}

std::vector<Worker::Progress> Engine::progress() const {
  std::vector<Worker::Progress> all;
  for (const auto& worker : workers_) all.push_back(worker->progress());
  return all;
}

std::uint32_t Engine::mbufs_in_use() const { return pool_ ? rte_mempool_in_use_count(pool_.get()) : 0; }

}  // namespace lw
