// What came back of the test frames: right ones, and all that can be wrong with the others.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "bench_stream.hpp"
#include "settings.hpp"

namespace lw::bench {

// From the IPv4 header on. False: it carries none.
bool read_signature(const std::uint8_t* inner, std::uint32_t length, Signature& found);

enum class Wrong : std::uint8_t {
  link,
  outer_source,
  outer_destination,
  inner_addresses,
  ports,
  length,
  checksum,
  number
};
inline constexpr std::array<std::string_view, 8> kWrong{"link",  "outer_source", "outer_destination", "inner_addresses",
                                                        "ports", "length",       "checksum",          "number"};

// The counts of one side in one trial.
struct Ledger {
  std::uint64_t right{};        // as they must be, each number once
  std::uint64_t reordered{};    // of these: behind a later one (RFC 4737 section 3.3)
  std::uint64_t duplicates{};   // as far back as kWindow frames
  std::uint64_t late{};         // of an earlier trial
  std::uint64_t misdirected{};  // of the other direction: it came out where it must not
  std::array<std::uint64_t, kWrong.size()> wrong{};
  std::uint64_t icmp_errors{};
  std::uint64_t other{};
  std::uint64_t first_tsc{}, last_tsc{};  // of right ones
  std::vector<std::uint32_t> by_binding;  // right ones
  std::vector<std::uint64_t> delays;      // of tagged frames, time stamp counter
};

class Judge {
 public:
  static constexpr std::uint64_t kWindow = 1U << 20;
  // Which frames are tagged: every `every`-th from number `from` on, at most so many.
  struct Tags {
    std::uint64_t from;
    std::uint64_t every;
    std::uint64_t most;
  };
  enum class Kind : std::uint8_t { test, neighbour, other };

  // `expected` null: nothing is expected on this side in this trial.
  Judge(SideId side, std::uint16_t trial, const Stream* expected, const Tags& tags);

  void prefetch(const std::uint8_t* frame, std::uint32_t length) const;
  Kind see(const std::uint8_t* frame, std::uint32_t length, std::uint64_t tsc);
  Ledger& ledger() { return ledger_; }

 private:
  void count(const Signature& signature, const std::uint8_t* frame, std::uint32_t length, std::uint16_t at,
             std::uint64_t tsc);
  bool fits(const Signature& signature, const std::uint8_t* frame, std::uint32_t length, std::uint16_t at,
            std::uint32_t& binding);
  bool fresh(std::uint64_t number);

  SideId side_;
  std::uint16_t trial_;
  const Stream* expected_;
  Tags tags_;
  Ledger ledger_;
  std::uint64_t next_{};             // one above the highest number seen
  std::vector<std::uint64_t> seen_;  // bits, by number modulo kWindow
};

}  // namespace lw::bench
