// Questions to a running router on DPDK's own telemetry socket: its counters, and captures.
//   /lwaftr/stats                   every counter, summed over the workers
//   /lwaftr/capture_start,REQUEST   CaptureRequest::parse says how it is written
//   /lwaftr/capture_stop
//   /lwaftr/capture_state
#pragma once

namespace lw {

class Engine;

namespace telemetry {

// DPDK's handlers carry no argument: one engine of the process answers, the latest.
void serve(Engine& engine);
void forget(const Engine& engine);  // no handler uses it after this

}  // namespace telemetry
}  // namespace lw
