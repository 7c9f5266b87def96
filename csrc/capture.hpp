// Captures of a running router: frames that came, with what became of them, and frames that left, into a pcapng file.
//
// One at a time, always bounded in packets and time. A thread of its own writes the file; the workers never wait
// (capture_tap.hpp), and without a capture a lane pays one null test a burst.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

namespace lw {

class Worker;

class CaptureError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct CaptureRequest {
  std::string file;
  std::string filter;  // pcap-filter syntax; empty: every frame
  std::uint64_t packets{10'000};
  std::uint64_t milliseconds{60'000};
  std::uint32_t snap{2048};

  static constexpr std::uint64_t kMostPackets = 1'000'000'000;
  static constexpr std::uint64_t kMostMilliseconds = 24ULL * 3600 * 1000;
  static constexpr std::uint32_t kLeastSnap = 14;
  static constexpr std::uint32_t kMostSnap = 16384;
  // From "file=%2Ftmp%2Fa.pcapng&packets=5&…", percent-encoded. Throws CaptureError.
  static CaptureRequest parse(const std::string& text);
};

struct CaptureState {
  bool running;
  std::string file;      // empty: there was none yet
  std::string ended_by;  // count | time | request | error; empty while it runs
  std::string error;
  std::uint64_t seen;  // frames that passed the filter
  std::uint64_t written;
  std::uint64_t missed;
  std::uint64_t octets;
};

class Capture {
 public:
  // The ports of the IPv4 and of the IPv6 side.
  Capture(std::vector<Worker*> workers, std::array<std::uint16_t, 2> port);
  ~Capture();
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  // From any thread.
  void start(const CaptureRequest& request);  // throws CaptureError
  void stop();                                // the file is complete on return
  void close();                               // and no other is started
  CaptureState state() const;

 private:
  class Session;

  const std::vector<Worker*> workers_;
  const std::array<std::uint16_t, 2> port_;
  mutable std::mutex mutex_;
  std::unique_ptr<Session> session_;
  bool closed_{};
};

}  // namespace lw
