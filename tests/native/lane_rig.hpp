// Runs a program (lane_program.hpp) through one lane and holds what must be true of any run:
//   the law      sum(rx) = sum(edge) + sum(drop) + sum(held), after every step
//   no leak      when nothing is held, no packet buffer is in use
//   frame_checks of everything that was sent
//   neighbours   the frames of a burst, or a frame in pieces, come out as if each had come alone and in one buffer
#pragma once

#include <algorithm>
#include <cinttypes>
#include <map>
#include <string>

#include "frame_checks.hpp"
#include "harness.hpp"
#include "lane_program.hpp"
#include "lane_world.hpp"

namespace rig {

using lw::Counter;
using lw::CounterKind;
using lw::SideId;

[[noreturn]] inline void fail(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::abort();
}

class Run {
 public:
  // `alone`: every frame in a burst of its own and in one buffer.
  explicit Run(const Program& program, bool alone)
      : settings_(settings_of(program.choices)),
        harness_(settings_, table(), mbufs(program)),
        room_(mbufs(program)),
        checks_(settings_),
        alone_(alone) {
    for (const SideId side : {SideId::v4, SideId::v6}) {
      if (answers(program, side)) answer(side);
    }
  }

  void run(const Program& program) {
    for (const Step& step : program.steps) {
      if (skipped_) break;
      go(step);
    }
    flush();
    settle();
  }

  void go(const Step& step) {
    if (step.octets.empty() && step.kind != Step::Kind::event) return;  // no port hands over an empty frame
    const bool joins = step.kind == Step::Kind::joins && !alone_;
    if (!burst_.empty() && (step.kind == Step::Kind::event || step.side != burst_side_)) flush();
    if (step.kind == Step::Kind::event) {
      event(step.event);
    } else if (step.kind == Step::Kind::pieces && !alone_) {
      flush();
      pieces(step);
    } else {
      burst_side_ = step.side;
      burst_.emplace_back(step.octets);
      if (!joins || burst_.size() == lw::Lane::kBurst) flush();
    }
  }

  void feed(SideId side, std::span<const lw::Harness::Octets> frames, std::span<const std::uint32_t> segments = {}) {
    // Of the scarce buffers the lane may use up all, but what it is fed has to be there.
    if (harness_.mbufs_in_use() + frames.size() + segments.size() > room_) {
      skipped_ = true;
      return;
    }
    harness_.feed(side, frames, segments);
    look();
  }

  // What is held goes, then there must be nothing.
  void settle() {
    harness_.drop_held();
    look();
    const auto held = sum(CounterKind::held);
    if (held != 0) fail("held after drop_held: " + std::to_string(held) + told());
    if (const auto used = harness_.mbufs_in_use(); used != 0) fail(std::to_string(used) + " mbufs lost" + told());
  }

  void keep_sent() { keep_ = true; }  // for the comparison
  bool skipped() const { return skipped_; }
  const lw::Counters& counters() const { return harness_.counters(); }
  const std::map<std::vector<std::uint8_t>, int>& sent() const { return sent_; }

  std::string told() const {
    std::string all;
    for (std::size_t i = 0; i < lw::kCounterCount; ++i) {
      const auto value = static_cast<std::int64_t>(counters().get(static_cast<Counter>(i)));
      if (value != 0) all += "\n  " + std::string(lw::kCounters[i].name) + " " + std::to_string(value);
    }
    return all;
  }

 private:
  void answer(SideId side) {
    harness_.set_next_hop(side, side == SideId::v4 ? lw::Mac{{2, 0, 0, 0, 4, 0xfe}} : lw::Mac{{2, 0, 0, 0, 6, 0xfe}});
  }

  void event(std::uint8_t which) {
    if (which == Program::kAnswer4) return answer(SideId::v4);
    if (which == Program::kAnswer6) return answer(SideId::v6);
    if (which == Program::kInterfaceUp) {
      harness_.interface_up();
    } else if (which == Program::kDropHeld) {
      harness_.drop_held();
    } else {
      harness_.advance(std::uint64_t{which} * which);
    }
    look();
  }

  void pieces(const Step& step) {
    std::vector<std::uint32_t> segments;
    for (const std::uint8_t n : step.pieces) segments.push_back(std::max<std::uint32_t>(1, n));
    segments.push_back(Program::kMaxFrame);
    const lw::Harness::Octets frame = step.octets;
    feed(step.side, {&frame, 1}, segments);
  }

  void flush() {
    if (!burst_.empty()) feed(burst_side_, burst_);
    burst_.clear();
  }

  std::int64_t sum(CounterKind kind) const {
    std::int64_t total = 0;
    for (std::size_t i = 0; i < lw::kCounterCount; ++i) {
      if (lw::kCounters[i].kind != kind) continue;
      const auto value = static_cast<std::int64_t>(counters().get(static_cast<Counter>(i)));
      if (value < 0) fail(std::string(lw::kCounters[i].name) + " fell below 0" + told());
      total += value;
    }
    return total;
  }

  void look() {
    const auto came = sum(CounterKind::rx), went = sum(CounterKind::edge) + sum(CounterKind::drop);
    const auto held = sum(CounterKind::held);
    if (came != went + held) {
      fail("the law: " + std::to_string(came) + " came, " + std::to_string(went) + " went, " + std::to_string(held) +
           " held" + told());
    }
    for (lw::Harness::Frame& frame : harness_.take()) {
      checks_.check(frame.side, frame.octets);
      if (alone_ || keep_) remember(frame);
    }
  }

  // What may depend on order: the identification of an outer fragment, which counts packets, and the next hop's MAC,
  // which a burst takes over at its beginning.
  void remember(lw::Harness::Frame& frame) {
    std::fill_n(frame.octets.begin(), sizeof(lw::Mac), std::uint8_t{0});
    const std::size_t header = lw::ether::kHeader + (settings_.v6.vlan ? lw::ether::kTag : 0U);
    auto& octets = frame.octets;
    if (frame.side == SideId::v6 && octets[header + lw::ipv6::kNextHeader] == lw::proto::kFragment) {
      lw::store32(&octets[header + lw::ipv6::kHeader + 4], 0);
    }
    octets.push_back(static_cast<std::uint8_t>(frame.side));
    ++sent_[std::move(octets)];
  }

  lw::Settings settings_;
  lw::Harness harness_;
  std::uint32_t room_;
  FrameChecks checks_;
  bool alone_, keep_{}, skipped_{};
  SideId burst_side_{};
  std::vector<lw::Harness::Octets> burst_;
  std::map<std::vector<std::uint8_t>, int> sent_;
};

// Limits depend on order, and the order within a burst is free: then there is nothing to compare.
inline bool comparable(const Program& program) {
  const bool limited = (program.choices[3] & 0x3f) != 0 || (program.choices[4] & 7) != 0;
  const auto grouped = [](const Step& step) {
    return step.kind == Step::Kind::joins || step.kind == Step::Kind::pieces;
  };
  return !limited && std::ranges::any_of(program.steps, grouped);
}

inline std::string hex(std::span<const std::uint8_t> octets) {
  std::string text;
  char two[3];
  for (const std::uint8_t octet : octets) {
    std::snprintf(two, sizeof two, "%02x", octet);
    text += two;
  }
  return text;
}

inline void run(const Program& program) {
  Run together(program, false);
  const bool compare = comparable(program);
  if (compare) together.keep_sent();
  together.run(program);
  if (!compare) return;
  Run alone(program, true);
  alone.run(program);
  // A path MTU that is learnt may hold for all of its burst or for what comes behind it.
  const bool learnt = alone.counters().get(Counter::pmtu_lowered) + together.counters().get(Counter::pmtu_lowered) != 0;
  if (learnt || alone.sent() == together.sent()) return;
  std::string all = "burst or pieces change what is sent\ntogether:";
  for (const auto& [frame, n] : together.sent()) all += "\n  " + std::to_string(n) + " x " + hex(frame);
  all += "\nalone:";
  for (const auto& [frame, n] : alone.sent()) all += "\n  " + std::to_string(n) + " x " + hex(frame);
  fail(all + "\ntogether" + together.told() + "\nalone" + alone.told());
}

}  // namespace rig
