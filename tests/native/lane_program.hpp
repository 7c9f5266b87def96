// What a fuzz input means: the choice of settings (lane_world.hpp), then frames and events in order. Every string of
// octets means something, and what a program was parsed from is what it is written as, so mutations keep their place.
//
//   6 octets      choices
//   records       op, then by op >> 1 & 3 (op & 1 is the side, 1 = IPv6):
//     0 frame     u16 length (little endian), octets
//     1 pieces    u8 count, the lengths of the first buffers (u8 each), then as above
//     2 joins     as 0: not fed alone but in one burst with the next of its side
//     3 event     u8: 255 interface up, 254 and 253 next hop answers (IPv4, IPv6), 252 all that is held goes,
//                 others: their square in ms passes
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "settings.hpp"

struct Step {
  enum class Kind : std::uint8_t { frame, pieces, joins, event };
  Kind kind{};
  lw::SideId side{};
  std::uint8_t event{};
  std::vector<std::uint8_t> pieces;
  std::vector<std::uint8_t> octets;
};

struct Program {
  static constexpr std::size_t kMaxSteps = 48, kMaxPieces = 7, kMaxFrame = 10240;
  static constexpr std::uint8_t kInterfaceUp = 255, kAnswer4 = 254, kAnswer6 = 253, kDropHeld = 252;

  std::array<std::uint8_t, 6> choices{};
  std::vector<Step> steps;

  static Program parse(std::span<const std::uint8_t> octets);
  std::vector<std::uint8_t> written() const;
};

inline Program Program::parse(std::span<const std::uint8_t> octets) {
  const auto take = [&octets](std::size_t n) {
    const auto part = octets.first(std::min(n, octets.size()));
    octets = octets.subspan(part.size());
    return part;
  };
  const auto take1 = [&take] {
    const auto part = take(1);
    return part.empty() ? std::uint8_t{0} : part[0];
  };
  Program program;
  std::ranges::copy(take(program.choices.size()), program.choices.begin());
  while (!octets.empty() && program.steps.size() < kMaxSteps) {
    Step step;
    const std::uint8_t op = take1();
    step.side = static_cast<lw::SideId>(op & 1);
    step.kind = static_cast<Step::Kind>(op >> 1 & 3);
    if (step.kind == Step::Kind::event) {
      step.event = take1();
      program.steps.push_back(std::move(step));
      continue;
    }
    if (step.kind == Step::Kind::pieces) {
      const auto part = take(take1() % (kMaxPieces + 1));
      step.pieces.assign(part.begin(), part.end());
    }
    const std::size_t low = take1(), high = take1();
    const auto part = take(std::min(high << 8 | low, kMaxFrame));
    step.octets.assign(part.begin(), part.end());
    program.steps.push_back(std::move(step));
  }
  return program;
}

inline std::vector<std::uint8_t> Program::written() const {
  std::vector<std::uint8_t> out(choices.begin(), choices.end());
  for (const Step& step : steps) {
    out.push_back(static_cast<std::uint8_t>(static_cast<unsigned>(step.kind) << 1 | static_cast<unsigned>(step.side)));
    if (step.kind == Step::Kind::event) {
      out.push_back(step.event);
      continue;
    }
    if (step.kind == Step::Kind::pieces) {
      out.push_back(static_cast<std::uint8_t>(step.pieces.size()));
      out.insert(out.end(), step.pieces.begin(), step.pieces.end());
    }
    out.push_back(static_cast<std::uint8_t>(step.octets.size()));
    out.push_back(static_cast<std::uint8_t>(step.octets.size() >> 8));
    out.insert(out.end(), step.octets.begin(), step.octets.end());
  }
  return out;
}
