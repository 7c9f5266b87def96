#include "telemetry.hpp"

#include <rte_telemetry.h>

#include <cerrno>
#include <mutex>
#include <string>

#include "engine.hpp"

namespace lw::telemetry {
namespace {

static_assert(kCounterCount <= RTE_TEL_MAX_DICT_ENTRIES, "/lwaftr/stats would not fit one answer");

std::mutex mutex;  // held while a handler runs
Engine* served;

// Longer ones are refused by DPDK, so they are cut.
void add_text(rte_tel_data* to, const char* name, const std::string& text) {
  rte_tel_data_add_dict_string(to, name, text.substr(0, RTE_TEL_MAX_STRING_LEN - 1).c_str());
}

int stats(const char*, const char*, rte_tel_data* answer) {
  const std::lock_guard lock(mutex);
  if (served == nullptr) return -ENODEV;
  rte_tel_data_start_dict(answer);
  for (std::size_t i = 0; i < kCounterCount; ++i) {
    std::uint64_t sum = 0;
    for (std::size_t worker = 0; worker < served->workers(); ++worker) {
      sum += served->counters(worker).get(static_cast<Counter>(i));
    }
    rte_tel_data_add_dict_u64(answer, std::string(kCounters[i].name).c_str(), sum);
  }
  return 0;
}

void add_state(rte_tel_data* answer, const CaptureState& state) {
  add_text(answer, "state", state.running ? "running" : state.file.empty() ? "none" : "finished");
  add_text(answer, "ended_by", state.ended_by);
  add_text(answer, "error", state.error);
  rte_tel_data_add_dict_u64(answer, "seen", state.seen);
  rte_tel_data_add_dict_u64(answer, "written", state.written);
  rte_tel_data_add_dict_u64(answer, "missed", state.missed);
  rte_tel_data_add_dict_u64(answer, "octets", state.octets);
}

int capture_state(const char*, const char*, rte_tel_data* answer) {
  const std::lock_guard lock(mutex);
  if (served == nullptr) return -ENODEV;
  rte_tel_data_start_dict(answer);
  add_state(answer, served->capture().state());
  return 0;
}

int capture_stop(const char*, const char*, rte_tel_data* answer) {
  const std::lock_guard lock(mutex);
  if (served == nullptr) return -ENODEV;
  served->capture().stop();
  rte_tel_data_start_dict(answer);
  add_state(answer, served->capture().state());
  return 0;
}

int capture_start(const char*, const char* params, rte_tel_data* answer) {
  const std::lock_guard lock(mutex);
  if (served == nullptr) return -ENODEV;
  rte_tel_data_start_dict(answer);
  try {
    served->capture().start(CaptureRequest::parse(params == nullptr ? "" : params));
    add_state(answer, served->capture().state());
  } catch (const std::exception& fault) {
    add_text(answer, "state", "refused");
    add_text(answer, "error", fault.what());
  }
  return 0;
}

void register_once() {
  static const bool done = [] {
    rte_telemetry_register_cmd("/lwaftr/stats", stats, "Every counter, summed over the workers. No parameters");
    rte_telemetry_register_cmd("/lwaftr/capture_start", capture_start,
                               "Starts a capture: file=…&packets=…&milliseconds=…&snap=…&filter=…, percent-encoded");
    rte_telemetry_register_cmd("/lwaftr/capture_stop", capture_stop, "Ends the capture. No parameters");
    rte_telemetry_register_cmd("/lwaftr/capture_state", capture_state, "How far the capture is. No parameters");
    return true;
  }();
  static_cast<void>(done);
}

}  // namespace

void serve(Engine& engine) {
  const std::lock_guard lock(mutex);
  register_once();
  served = &engine;
}

void forget(const Engine& engine) {
  const std::lock_guard lock(mutex);
  if (served == &engine) served = nullptr;
}

}  // namespace lw::telemetry
