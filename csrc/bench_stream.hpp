// The test frames of one direction, by number: what frame n is like can be worked out at both ends, so a receiver knows
// what it must look like, and nothing has to be looked up but the binding.
//
//   payload   "lw46", trial and direction (2), number (6), time stamp counter (6); what follows is nobody's business
// 18 octets: they fit the least Ethernet frame from the internet. Times go round after a day.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "bench_frame.hpp"
#include "binding.hpp"
#include "types.hpp"

namespace lw::bench {

using BindingRows = std::shared_ptr<const std::vector<BindingRow>>;

// Behind the UDP header of a test frame.
struct Signature {
  static constexpr std::uint16_t kOctets = 18;
  static constexpr std::uint64_t kMost = std::uint64_t{1} << 48;  // of numbers and times

  std::uint16_t trial;  // 15 bits
  Direction direction;  // encap or decap
  std::uint64_t number;
  std::uint64_t tsc;  // lower 48 bits
};

class Stream {
 public:
  struct Plan {
    Direction direction;                // encap or decap
    BindingRows rows;                   // at least one
    std::vector<std::uint16_t> octets;  // of the frames as sent, in turn; no FCS
    FrameTemplate::Ends ends;
    std::uint16_t trial;
    std::uint64_t frames;
  };
  // Throws std::invalid_argument.
  explicit Stream(const Plan& plan);

  static std::uint16_t least(Direction direction);
  Direction direction() const { return plan_.direction; }
  std::uint16_t trial() const { return plan_.trial; }
  std::uint64_t frames() const { return plan_.frames; }
  std::size_t bindings() const { return plan_.rows->size(); }
  std::uint16_t octets(std::uint64_t number) const { return sized(number).octets; }

  // What belongs to frame n beside its size.
  struct Subscriber {
    std::uint32_t binding;
    Ipv4 address;
    std::uint16_t port;
    Ipv6 b4;
    Ipv6 br;
  };
  Subscriber subscriber(std::uint64_t number) const;
  void prefetch(std::uint64_t number) const { __builtin_prefetch(plan_.rows->data() + binding(number)); }
  // All but the time; returns the binding.
  std::uint32_t write(std::uint64_t number, std::uint8_t* frame) const;
  void stamp(std::uint8_t* frame, std::uint64_t tsc) const;
  Ipv4 host() const { return plan_.ends.host; }

 private:
  std::uint64_t random(std::uint64_t number) const;
  std::uint32_t binding(std::uint64_t number) const;
  const FrameTemplate& sized(std::uint64_t number) const {
    return templates_.size() == 1 ? templates_.front() : templates_[number % templates_.size()];
  }

  Plan plan_;
  std::vector<FrameTemplate> templates_;
};

}  // namespace lw::bench
