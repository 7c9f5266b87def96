// The frames of tests/data/dataplane.json, as the seeds of fuzz_lane hold them, through a lane: as they are, in every
// way in two pieces, cut off after every octet, and with single octets changed, with checksums that are wrong and
// right.
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "checksum_fix.hpp"
#include "lane_program.hpp"
#include "lane_rig.hpp"

namespace {

constexpr std::size_t kHeads = 192;  // octets of a frame that are changed one by one: all headers of nearly all of them
constexpr std::array<std::uint8_t, 3> kChanges{0x01, 0x80, 0xff};
// Held fragments would fill the stores: then later ones met nothing but the limit.
constexpr unsigned kSettleEvery = 32;

std::vector<std::uint8_t> read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Feeds variants of one step, each behind the steps that came before it, so that what they left still stands.
class Variants {
 public:
  explicit Variants(const Program& program) : program_(program), lane_(program, false) {}

  void all(std::size_t at) {
    at_ = at;
    const std::vector<std::uint8_t> whole = program_.steps[at].octets;
    for (std::size_t n = 1; n < whole.size(); ++n) {
      one({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n)});
      pieces(whole, n);
    }
    for (std::size_t i = 0; i < std::min(whole.size(), kHeads); ++i) {
      for (const std::uint8_t change : kChanges) {
        std::vector<std::uint8_t> changed = whole;
        changed[i] ^= change;
        one(changed);
        fix::frame(changed, false);
        one(changed);
      }
    }
  }
  unsigned done() const { return done_; }
  void settle() { lane_.settle(); }

 private:
  void one(const std::vector<std::uint8_t>& octets) {
    before();
    const lw::Harness::Octets frame = octets;
    lane_.feed(program_.steps[at_].side, {&frame, 1});
  }
  void pieces(const std::vector<std::uint8_t>& octets, std::size_t first) {
    before();
    const lw::Harness::Octets frame = octets;
    const std::uint32_t lengths[]{static_cast<std::uint32_t>(first), Program::kMaxFrame};
    lane_.feed(program_.steps[at_].side, {&frame, 1}, lengths);
  }
  void before() {
    if (++done_ % kSettleEvery != 1) return;
    lane_.settle();
    for (std::size_t i = 0; i < at_; ++i) lane_.go(program_.steps[i]);
  }

  const Program& program_;
  rig::Run lane_;
  std::size_t at_{};
  unsigned done_{};
};

}  // namespace

int main(int argc, char** argv) {
  const std::filesystem::path seeds = argc > 1 ? argv[1] : "../data/corpus/fuzz_lane";
  rig::start_eal("lane_vectors");
  unsigned programs = 0, frames = 0;
  const auto begin = std::chrono::steady_clock::now();
  for (const auto& entry : std::filesystem::directory_iterator(seeds)) {
    const Program program = Program::parse(read(entry.path()));
    rig::run(program);
    Variants variants(program);
    for (std::size_t i = 0; i < program.steps.size(); ++i) {
      if (program.steps[i].kind != Step::Kind::event) variants.all(i);
    }
    variants.settle();
    frames += variants.done();
    ++programs;
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  std::printf("%u programs, %u variants of their frames, %.1f s\n", programs, frames, took.count());
  return programs == 0 ? 1 : 0;
}
