// How many frames a NIC would have at a poll: they arrive at a rate, a ring keeps some, what finds it full is missed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <utility>

namespace lw::bench {

class Pacer {
 public:
  static constexpr std::uint64_t kUnlimited = ~std::uint64_t{0};  // as many as are polled
  static constexpr std::uint64_t kRing = 4096;
  static constexpr std::uint64_t kMostRate = std::uint64_t{1} << 40;  // of those that are a number of frames

  // offered = given + missed + what waits in the ring.
  struct Counts {
    std::uint64_t offered{};
    std::uint64_t given{};
    std::uint64_t missed{};
    std::uint64_t polls{};
  };

  // Throws std::invalid_argument for 0.
  explicit Pacer(std::uint64_t hz) : hz_(hz) {
    if (hz == 0) throw std::invalid_argument("hz: a clock that stands still");
  }

  // A poll at `now` (cycles of `hz`) for up to `most` frames: how many it gets. What arrived since the poll before came
  // at the rate that was said then, so a new rate counts from now on: no jump, whatever time has gone by.
  unsigned poll(std::uint64_t now, std::uint64_t rate, std::uint64_t ring, unsigned most) {
    gap_ = counts_.polls++ != 0 && now > last_ ? now - last_ : 0;
    last_ = now;
    arrive(std::exchange(rate_, rate), ring == 0 ? kRing : ring);
    if (rate == kUnlimited && waiting_ < most) {
      counts_.offered += most - waiting_;
      waiting_ = most;
    }
    const auto n = static_cast<unsigned>(std::min<std::uint64_t>(waiting_, most));
    waiting_ -= n;
    counts_.given += n;
    return n;
  }
  // Of the last poll's there was no buffer for so many.
  void lose(unsigned frames) {
    counts_.given -= frames;
    counts_.missed += frames;
  }

  const Counts& counts() const { return counts_; }
  std::uint64_t gap() const { return gap_; }  // from the poll before to the last one, cycles

 private:
  void arrive(std::uint64_t rate, std::uint64_t ring) {
    if (rate != 0 && rate != kUnlimited) {
      __extension__ using Wide = unsigned __int128;
      const Wide cycles = Wide{gap_} * std::min(rate, kMostRate) + part_;
      const auto frames = cycles < hz_ ? 0 : static_cast<std::uint64_t>(cycles / hz_);
      part_ = static_cast<std::uint64_t>(cycles - Wide{frames} * hz_);
      counts_.offered += frames;
      waiting_ += frames;
    }
    if (waiting_ > ring) {
      counts_.missed += waiting_ - ring;
      waiting_ = ring;
    }
  }

  std::uint64_t hz_;
  std::uint64_t last_{};
  std::uint64_t gap_{};
  std::uint64_t rate_{};
  std::uint64_t part_{};  // of the next frame, in hz-ths
  std::uint64_t waiting_{};
  Counts counts_;
};

}  // namespace lw::bench
