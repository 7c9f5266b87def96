#include "bench_shares.hpp"

#include <rte_thash.h>

#include <array>
#include <stdexcept>

#include "bench_fleet.hpp"
#include "headers.hpp"
#include "spread.hpp"

namespace lw::bench {

namespace {

// The key that Microsoft's "Verifying the RSS hash calculation" has its examples for; drivers have this one or one of
// their own. The table of queues behind it has 128 entries in many devices, filled in turn.
constexpr std::array<std::uint8_t, 40> kKey{0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67,
                                            0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb,
                                            0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
                                            0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa};
constexpr std::uint32_t kEntries = 128;

template <std::size_t n>
std::uint32_t toeplitz(std::array<std::uint32_t, n> words) {
  return rte_softrss(words.data(), n, kKey.data());
}

std::uint32_t hash4(std::uint32_t number, Direction direction) {
  const Ipv4 subscriber = fleet::address(number);
  return direction == Direction::encap ? toeplitz(std::array{kInternet, subscriber})
                                       : toeplitz(std::array{subscriber, kInternet});
}

std::uint32_t hash6(std::uint32_t number) {
  const Ipv6 from = fleet::b4(number), to = fleet::br();
  const auto high = [](std::uint64_t half) { return static_cast<std::uint32_t>(byte_swap(half) >> 32); };
  const auto low = [](std::uint64_t half) { return static_cast<std::uint32_t>(byte_swap(half)); };
  return toeplitz(std::array{high(from.high), low(from.high), high(from.low), low(from.low), high(to.high),
                             low(to.high), high(to.low), low(to.low)});
}

unsigned by_software(const Spread& spread, std::uint32_t number, Direction direction, std::uint8_t mask) {
  std::array<std::uint8_t, ether::kHeader + ipv6::kHeader> frame{};
  std::uint8_t* ip = frame.data() + ether::kHeader;
  if (direction == Direction::encap) {
    store16(frame.data() + 12, ether::kIpv4);
    store32(ip + ipv4::kSource, kInternet);
    store32(ip + ipv4::kDestination, fleet::address(number));
  } else {
    store16(frame.data() + 12, ether::kIpv6);
    store(ip + ipv6::kSource, fleet::b4(number));
    store(ip + ipv6::kDestination, fleet::br());
  }
  return spread.owner(frame.data(), frame.size(), mask);
}

}  // namespace

std::vector<std::uint32_t> draws(Direction direction, std::uint32_t bindings, std::size_t packets, std::uint64_t seed) {
  if (bindings == 0 || bindings > fleet::kMost) throw std::invalid_argument("bindings: 1 to 2^28");
  Random random(seed);
  std::vector<std::uint32_t> numbers(packets);
  for (std::uint32_t& number : numbers) {
    number = random.below(bindings);
    if (direction == Direction::hairpin) random.next();  // who it goes to
  }
  return numbers;
}

std::vector<std::uint16_t> queues_of(std::span<const std::uint32_t> numbers, Direction direction,
                                     const Queues& queues) {
  if (queues.count == 0 || queues.count > kEntries) throw std::invalid_argument("queues: 1 to 128");
  if (queues.by == By::inner && direction == Direction::hairpin) {
    throw std::invalid_argument("inner: the other end of a hairpinned packet is not known here");
  }
  const Spread spread(queues.count, queues.secret);
  std::vector<std::uint16_t> all;
  all.reserve(numbers.size());
  for (const std::uint32_t number : numbers) {
    unsigned queue;
    if (queues.by == By::software) {
      queue = by_software(spread, number, direction, queues.subscriber_mask);
    } else {
      const bool outermost = queues.by == By::outer && outer(direction);
      queue = (outermost ? hash6(number) : hash4(number, direction)) % kEntries % queues.count;
    }
    all.push_back(static_cast<std::uint16_t>(queue));
  }
  return all;
}

}  // namespace lw::bench
