// The one DPDK environment (EAL) of this process.
//
// rte_eal_init() pins the thread that calls it to the main lcore, and every thread started later would inherit
// that. So it runs in a thread of its own, which lives as long as the process: Python keeps its affinity.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace lw {

class EalError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Eal {
 public:
  // Once per process life: also a failed attempt is final (DPDK keeps its state). Throws EalError with one sentence.
  static void init(std::vector<std::string> args);
  static bool running();
  // Closes all devices and gives back hugepages. Nothing of DPDK may be used afterwards.
  static void cleanup();
  // What DPDK has logged since the last call, one line each.
  static std::vector<std::string> take_log();
};

}  // namespace lw
