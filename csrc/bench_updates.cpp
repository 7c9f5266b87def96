#include "bench_updates.hpp"

#include <pthread.h>
#include <rte_cycles.h>
#include <rte_pause.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>

#include "bench_lcore.hpp"
#include "bench_ring.hpp"
#include "binding_table.hpp"
#include "quiescence.hpp"

namespace lw::bench {

namespace {

constexpr unsigned kBurst = BindingTable::kBulk;
constexpr std::uint32_t kSmall = 1U << 14;   // of the writer's own table: fits its own cache
constexpr std::uint32_t kReplaceEvery = 16;  // turns
constexpr std::uint32_t kChurnEvery = 8;     // look-ups of which one is for a binding that comes and goes

struct Tally {
  std::atomic<std::uint64_t> updates{}, replaced{}, refused{}, job{};
};

// Written by one thread; a reader may take any moment of it.
void add(std::atomic<std::uint64_t>& to, std::uint64_t amount) {
  to.store(to.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
}

// A full table and how it changes.
class Changing {
 public:
  explicit Changing(std::uint32_t bindings, unsigned batch) : ring_(bindings), batch_(batch), table_(bindings) {
    if (batch == 0 || batch > ring_.churn()) throw std::invalid_argument("batch: 1 to an eighth of the bindings");
    if (!table_.bind(ring_.rows(), Source::config, 1).ok()) {
      throw std::runtime_error("the table did not take all bindings");
    }
    keys_.resize(batch);
    rows_.resize(batch);
    table_.set_grace([this] { reader_.wait(); });
  }
  const BindingTable& table() const { return table_; }
  const Ring& ring() const { return ring_; }
  Quiescence& reader() { return reader_; }

  // `batch` bindings go, as many come. Returns updates done.
  std::uint64_t turn(Tally& tally) {
    for (unsigned i = 0; i < batch_; ++i) {
      keys_[i] = fleet::key(ring_.number(i));
      rows_[i] = fleet::row(ring_.number(ring_.churn() + i), turns_ & 1);
    }
    const std::uint64_t removed = table_.unbind(keys_, Source::config).removed;
    const std::uint64_t added = table_.bind(rows_, Source::config, generation_).added;
    ring_.turn(batch_);
    add(tally.updates, removed + added);
    add(tally.refused, 2 * batch_ - removed - added);
    if (++turns_ % kReplaceEvery == 0) replace(tally);
    return removed + added;
  }

  // What a control side does after it was away: all there is once more, then the rest goes.
  void replace_all(Tally& tally) {
    const std::vector<BindingRow> rows = ring_.rows(++generation_ & 1);
    const std::uint64_t start = rte_rdtsc();
    const Report report = table_.bind(rows, Source::config, generation_);
    const std::size_t swept = table_.sweep(Source::config, generation_).size();
    add(tally.job, rte_rdtsc() - start);
    add(tally.replaced, report.replaced);
    add(tally.refused, swept + rows.size() - report.replaced - report.unchanged);
  }
  void grow(Tally& tally) {
    const std::uint64_t start = rte_rdtsc();
    table_.grow(table_.capacity() + table_.capacity() / 20);
    add(tally.job, rte_rdtsc() - start);
  }

 private:
  void replace(Tally& tally) {
    const std::uint32_t variant = turns_ / kReplaceEvery & 1;
    for (BindingRow& row : rows_) row = fleet::row(random_.below(ring_.stable()), variant);
    // Drawn twice in one batch: refused as a whole, and another time is another draw.
    const Report report = table_.bind(rows_, Source::config, generation_);
    add(tally.replaced, report.replaced);
  }

  Ring ring_;
  unsigned batch_;
  BindingTable table_;
  Random random_{3};
  std::uint32_t turns_{};
  std::uint32_t generation_{1};
  Quiescence reader_{1};
  std::vector<BindingKey> keys_;
  std::vector<BindingRow> rows_;
};

class Writer {
 public:
  Writer(Changing& shared, const UpdatesPlan& plan)
      : shared_(shared), own_(std::min(plan.bindings, kSmall), plan.batch), plan_(plan), thread_([this] { run(); }) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(plan.writer_cpu, &cpus);
    pinned_ = pthread_setaffinity_np(thread_.native_handle(), sizeof cpus, &cpus) == 0;
  }
  ~Writer() {
    enter(Phase::end);
    thread_.join();
  }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  bool pinned() const { return pinned_; }
  // Returns when the writer has finished what it did in the phase before.
  void enter(Phase phase) {
    wanted_.store(phase, std::memory_order_release);
    while (phase != Phase::end && entered_.load(std::memory_order_acquire) != phase) rte_pause();
  }
  const Tally& tally() const { return tally_; }
  // The job of a phase that is one is done.
  bool done() const { return done_.load(std::memory_order_acquire); }

 private:
  void run() {
    for (;;) {
      const Phase phase = wanted_.load(std::memory_order_acquire);
      if (phase == Phase::end) return;
      const bool first = entered_.load(std::memory_order_relaxed) != phase;
      if (first) done_.store(false, std::memory_order_relaxed);
      entered_.store(phase, std::memory_order_release);
      const bool job = phase == Phase::replacing || phase == Phase::growing;
      if (job && first) {
        phase == Phase::replacing ? shared_.replace_all(tally_) : shared_.grow(tally_);
        done_.store(true, std::memory_order_release);
      } else if (job || phase == Phase::idle) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      } else {
        write(phase);
      }
    }
  }
  void write(Phase phase) {
    Changing& table = phase == Phase::writing ? shared_ : own_;
    Tally elsewhere;
    Tally& tally = phase == Phase::writing ? tally_ : elsewhere;
    const double cycles_each = plan_.rate > 0 ? static_cast<double>(rte_get_tsc_hz()) / plan_.rate : 0;
    const std::uint64_t start = rte_rdtsc();
    double done = 0;
    while (wanted_.load(std::memory_order_relaxed) == phase) {
      done += static_cast<double>(table.turn(tally));
      while (static_cast<double>(rte_rdtsc() - start) < done * cycles_each &&
             wanted_.load(std::memory_order_relaxed) == phase) {
        rte_pause();
      }
    }
  }

  Changing& shared_;
  Changing own_;
  const UpdatesPlan plan_;
  Tally tally_;
  std::atomic<Phase> wanted_{Phase::idle};
  std::atomic<Phase> entered_{Phase::idle};
  std::atomic<bool> done_{};
  bool pinned_{};
  std::thread thread_;
};

bool right(const Softwire& seen, std::uint32_t number) {
  return seen == fleet::softwire(number, 0) || seen == fleet::softwire(number, 1);
}

// One burst the worker's way: class of the address, PSID of the port, then all keys at once.
void look_up(const BindingTable& table, const Ring& ring, Random& random, UpdatesWindow& window) {
  std::array<std::uint32_t, kBurst> numbers;
  std::array<BindingKey, kBurst> keys;
  std::array<Softwire, kBurst> softwires;
  for (unsigned i = 0; i < kBurst; ++i) {
    const std::uint64_t draw = random.next();
    const bool churn = i % kChurnEvery == 0;
    numbers[i] = churn ? ring.stable() + Random::below(draw, ring.numbers() - ring.stable())
                       : Random::below(draw, ring.stable());
    const std::uint16_t port = fleet::port(numbers[i], static_cast<std::uint32_t>(draw));
    keys[i].ipv4 = fleet::address(numbers[i]);
    const auto psid = table.classify(keys[i].ipv4).psid(port);
    keys[i].psid = psid.value_or(0xffff);
    window.missed += !churn && !psid;
    window.wrong += psid && *psid != fleet::psid(numbers[i]);
  }
  const std::uint64_t found = table.find_bulk(keys.data(), kBurst, softwires.data());
  for (unsigned i = 0; i < kBurst; ++i) {
    const bool hit = (found >> i & 1) != 0;
    window.missed += i % kChurnEvery != 0 && !hit;
    window.wrong += hit && !right(softwires[i], numbers[i]);
  }
  window.look_ups += kBurst;
}

// What the writer had done at a moment.
struct Done {
  explicit Done(const Tally& tally)
      : updates(tally.updates), replaced(tally.replaced), refused(tally.refused), job(tally.job) {}
  std::uint64_t updates, replaced, refused, job;
};

// As long as go_on(cycles since the start) says; the writer's work is counted from `before` on.
template <class GoOn>
UpdatesWindow read_while(Changing& shared, const Tally& tally, const Done& before, Random& random, GoOn go_on) {
  UpdatesWindow window{};
  Quiescence& reader = shared.reader();
  reader.begin(0);
  const std::uint64_t start = rte_rdtsc();
  std::uint64_t now = start;
  for (; go_on(now - start); now = rte_rdtsc()) {
    reader.quiescent(0);
    look_up(shared.table(), shared.ring(), random, window);
  }
  reader.end(0);
  window.cycles = now - start;
  window.updates = tally.updates - before.updates;
  window.replaced = tally.replaced - before.replaced;
  window.refused = tally.refused - before.refused;
  window.job = tally.job - before.job;
  return window;
}

UpdatesWindow read_for(Changing& shared, const Tally& tally, Random& random, std::uint64_t cycles) {
  return read_while(shared, tally, Done(tally), random, [cycles](std::uint64_t gone) { return gone < cycles; });
}

}  // namespace

UpdatesResult updates(const UpdatesPlan& plan) {
  Changing shared(plan.bindings, plan.batch);
  Writer writer(shared, plan);
  if (!writer.pinned()) throw std::invalid_argument("the writer may not run on CPU " + std::to_string(plan.writer_cpu));
  UpdatesResult all;
  on_lcore(plan.lcore, [&] {
    Random random(4);
    for (unsigned round = 0; round < plan.rounds; ++round) {
      auto& windows = all.rounds.emplace_back();
      for (const Phase phase : {Phase::idle, Phase::busy, Phase::writing}) {
        writer.enter(phase);
        constexpr double kWarm = 0.1;  // of a window, before it
        const UpdatesWindow warm = read_for(shared, writer.tally(), random, cycles_of(plan.window_s * kWarm));
        windows.push_back(read_for(shared, writer.tally(), random, cycles_of(plan.window_s)));
        windows.back().missed += warm.missed;
        windows.back().wrong += warm.wrong;
        windows.back().refused += warm.refused;
      }
    }
    for (unsigned job = 0; job < plan.jobs; ++job) {
      auto& windows = all.jobs.emplace_back();
      for (const Phase phase : {Phase::replacing, Phase::growing}) {
        writer.enter(Phase::idle);
        const Done before(writer.tally());  // a small table is done before the reading begins
        writer.enter(phase);
        const auto at_work = [&writer](std::uint64_t) { return !writer.done(); };
        windows.push_back(read_while(shared, writer.tally(), before, random, at_work));
      }
    }
  });
  return all;
}

}  // namespace lw::bench
