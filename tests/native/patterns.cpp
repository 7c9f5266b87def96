// Pattern and are() see every octet that they have to, and no other: patterns. Built twice, for vectors and for words.
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "pattern.hpp"

namespace {

using Octets = std::array<std::uint8_t, lw::Pattern::kOctets>;

std::mt19937_64 random_number(5);

void check(bool good, const char* what) {
  if (good) return;
  std::printf("wrong: %s\n", what);
  std::exit(1);
}

Octets some_octets() {
  Octets octets;
  for (std::uint8_t& octet : octets) octet = static_cast<std::uint8_t>(random_number());
  return octets;
}

// Each single bit decides if the mask has it, wherever the octets lie.
void one_pattern() {
  const Octets value = some_octets(), mask = some_octets();
  lw::Pattern pattern;
  pattern.want(0, value, mask);
  alignas(64) std::array<std::uint8_t, 96> frame{};
  std::uint8_t* there = frame.data() + random_number() % 64;
  lw::store(there, value);
  check(pattern.fits(there), "the value itself does not fit");
  for (unsigned bit = 0; bit < 8 * value.size(); ++bit) {
    const auto flip = static_cast<std::uint8_t>(1U << bit % 8);
    there[bit / 8] ^= flip;
    const bool asked = (mask[bit / 8] & flip) != 0;
    check(pattern.fits(there) != asked, asked ? "a wrong bit fits" : "a bit that is not asked for does not fit");
    there[bit / 8] ^= flip;
  }
}

// What is wanted in parts is wanted there alone.
void parts() {
  lw::Pattern pattern;
  check(pattern.fits(some_octets().data()), "a pattern that wants nothing does not fit");
  pattern.want(3, std::uint8_t{0x45}, std::uint8_t{0xf0});
  pattern.want(30, lw::Be16{0x0800}, lw::Be16{0xffff});
  Octets octets = some_octets();
  octets[3] = 0x4a;
  lw::store(octets.data() + 30, lw::Be16{0x0800});
  check(pattern.fits(octets.data()), "its parts do not fit");
  octets[3] = 0x5a;
  check(!pattern.fits(octets.data()), "a wrong part fits");
}

void addresses() {
  const lw::Ipv6 first{random_number(), random_number()}, second{random_number(), random_number()};
  Octets octets;
  lw::store(octets.data(), first);
  lw::store(octets.data() + sizeof first, second);
  check(lw::are(octets.data(), first, second), "the addresses are not themselves");
  for (unsigned bit = 0; bit < 8 * octets.size(); ++bit) {
    octets[bit / 8] ^= static_cast<std::uint8_t>(1U << bit % 8);
    check(!lw::are(octets.data(), first, second), "another address is the same");
    octets[bit / 8] ^= static_cast<std::uint8_t>(1U << bit % 8);
  }
}

}  // namespace

int main() {
  for (unsigned i = 0; i < 200; ++i) one_pattern();
  parts();
  addresses();
}
