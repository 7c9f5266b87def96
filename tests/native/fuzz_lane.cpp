// No octets may crash a lane, make it lose a buffer or a count, or send what is malformed (lane_rig.hpp).
// LANE_PRINT=1 tells what an input means: fuzz_lane INPUT.
#include <cstring>
#include <random>

#include "checksum_fix.hpp"
#include "lane_program.hpp"
#include "lane_rig.hpp"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace {

using Random = std::minstd_rand;

std::size_t write(const Program& program, std::uint8_t* data, std::size_t max_size) {
  const std::vector<std::uint8_t> out = program.written();
  const std::size_t n = std::min(out.size(), max_size);
  std::memcpy(data, out.data(), n);
  return n;
}

void change_order(Program& program, Random& random) {
  auto& steps = program.steps;
  const std::size_t at = random() % steps.size(), other = random() % steps.size();
  switch (random() % 5) {
    case 0:
      steps.insert(steps.begin() + static_cast<std::ptrdiff_t>(at), Step(steps[other]));
      break;
    case 1:
      std::swap(steps[at], steps[other]);
      break;
    case 2:
      steps.erase(steps.begin() + static_cast<std::ptrdiff_t>(at));
      break;
    case 3:
      if (steps[at].kind != Step::Kind::event) steps[at].kind = Step::Kind::joins;
      break;
    default:
      if (steps[at].kind == Step::Kind::event) break;
      steps[at].kind = Step::Kind::pieces;
      steps[at].pieces.resize(random() % (Program::kMaxPieces + 1));
      for (std::uint8_t& n : steps[at].pieces) n = static_cast<std::uint8_t>(random());
  }
}

// Inside one frame, so that the others stay what they were.
void change_frame(Step& step, Random& random) {
  if (step.kind == Step::Kind::event) {
    step.event = static_cast<std::uint8_t>(random());
    return;
  }
  const std::size_t size = step.octets.size();
  step.octets.resize(size + 64);
  step.octets.resize(LLVMFuzzerMutate(step.octets.data(), size, step.octets.size()));
}

void mend(Program& program, Random& random) {
  if (random() % 2 == 0) return;
  const bool lengths = random() % 2 == 0;
  for (Step& step : program.steps) fix::frame(step.octets, lengths);
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  Random random(seed);
  Program program = Program::parse({data, size});
  const unsigned kind = random() % 8;
  if (program.steps.empty() || kind == 0) {
    program = Program::parse({data, LLVMFuzzerMutate(data, size, max_size)});
  } else if (kind == 1) {
    program.choices[random() % program.choices.size()] ^= static_cast<std::uint8_t>(1U << random() % 8);
  } else if (kind == 2) {
    change_order(program, random);
  } else {
    change_frame(program.steps[random() % program.steps.size()], random);
  }
  mend(program, random);
  return write(program, data, max_size);
}

// The beginning of one, the end of the other, settings of either: what the one holds meets the other's frames.
extern "C" std::size_t LLVMFuzzerCustomCrossOver(const std::uint8_t* data1, std::size_t size1,
                                                 const std::uint8_t* data2, std::size_t size2, std::uint8_t* out,
                                                 std::size_t max_size, unsigned seed) {
  Random random(seed);
  Program one = Program::parse({data1, size1});
  const Program two = Program::parse({data2, size2});
  if (random() % 2 == 0) one.choices = two.choices;
  if (!one.steps.empty()) one.steps.resize(1 + random() % one.steps.size());
  if (!two.steps.empty()) {
    const auto from = static_cast<std::ptrdiff_t>(random() % two.steps.size());
    one.steps.insert(one.steps.end(), two.steps.begin() + from, two.steps.end());
  }
  if (one.steps.size() > Program::kMaxSteps) one.steps.resize(Program::kMaxSteps);
  return write(one, out, max_size);
}

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  rig::start_eal("fuzz_lane");
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const bool print = std::getenv("LANE_PRINT") != nullptr;
  const Program program = Program::parse({data, size});
  if (print) {
    std::printf("choices %s\n", rig::hex(program.choices).c_str());
    for (const Step& step : program.steps) {
      std::printf("%s %s event %u pieces %s\n  %s\n", step.side == lw::SideId::v4 ? "v4" : "v6",
                  (const char*[]){"frame", "pieces", "joins", "event"}[static_cast<unsigned>(step.kind)], step.event,
                  rig::hex(step.pieces).c_str(), rig::hex(step.octets).c_str());
    }
  }
  rig::run(program);
  return 0;
}
