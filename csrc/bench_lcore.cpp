#include "bench_lcore.hpp"

#include <rte_cycles.h>
#include <rte_launch.h>

#include <condition_variable>
#include <exception>
#include <mutex>
#include <string>

#include "eal.hpp"

namespace lw::bench {

namespace {

struct Launch {
  const std::function<void()>& work;
  std::mutex mutex{};
  std::condition_variable wake{};
  bool done{};
  std::exception_ptr fault{};
};

int run(void* argument) {
  Launch& launch = *static_cast<Launch*>(argument);
  std::exception_ptr fault;
  try {
    launch.work();
  } catch (...) {
    fault = std::current_exception();
  }
  const std::lock_guard lock(launch.mutex);
  launch.fault = fault;
  launch.done = true;
  launch.wake.notify_one();
  return 0;
}

}  // namespace

void on_lcore(unsigned lcore, const std::function<void()>& work) {
  if (!Eal::running()) throw EalError("DPDK has to be started before a benchmark: call eal_init first");
  Launch launch{work};
  if (rte_eal_remote_launch(run, &launch, lcore) != 0) {
    throw EalError("lcore " + std::to_string(lcore) + " does not exist or is busy");
  }
  {
    std::unique_lock lock(launch.mutex);
    launch.wake.wait(lock, [&launch] { return launch.done; });
  }
  rte_eal_wait_lcore(lcore);
  if (launch.fault) std::rethrow_exception(launch.fault);
}

std::uint64_t tsc_hz() { return rte_get_tsc_hz(); }

std::uint64_t cycles_of(double seconds) { return static_cast<std::uint64_t>(seconds * static_cast<double>(tsc_hz())); }

}  // namespace lw::bench
