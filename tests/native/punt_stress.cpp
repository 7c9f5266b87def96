// Lanes that hand packets over as fast as they can, and a control side that sleeps until it is called: punt_stress
// [SECONDS]. Every packet that was taken into a ring comes out once, whole, in its lane's order; none is forgotten
// while the reader waits for the descriptor. The other way the same with injected packets. Exits non-zero with the
// first fault. Built with TSan it looks for races as well.
#include <poll.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "inject.hpp"
#include "punt.hpp"

namespace {

constexpr std::size_t kLanes = 2, kRing = 8192;
constexpr std::uint32_t kMost = 1200;
std::atomic<bool> stop{};

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::_Exit(1);
}

std::uint32_t length_of(std::uint64_t number) { return 48 + static_cast<std::uint32_t>(number * 2654435761U % kMost); }

void fill(std::uint8_t* at, std::uint32_t length, std::uint64_t number) {
  std::memset(at, static_cast<int>(number & 0xff), length);
  at[0] = 0x60;
  at[4] = static_cast<std::uint8_t>((length - 40) >> 8);
  at[5] = static_cast<std::uint8_t>(length - 40);
  std::memcpy(at + 40, &number, sizeof number);
}

void check(const std::uint8_t* at, std::uint32_t length, std::uint64_t number) {
  std::array<std::uint8_t, 48 + kMost> wanted;
  fill(wanted.data(), length_of(number), number);
  if (length != length_of(number)) fail("a packet has another length");
  if (std::memcmp(at, wanted.data(), length) != 0) fail("a packet has other octets, or came out of turn");
}

// Pauses now and then, so that the rings run full and dry.
void lane(lw::PuntRing& ring, std::atomic<std::uint64_t>& handed) {
  std::minstd_rand random(static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(&ring)));
  for (std::uint64_t number = 0; !stop;) {
    const std::uint32_t length = length_of(number);
    if (std::uint8_t* room = ring.begin(length); room != nullptr) {
      fill(room, length, number);
      ring.commit({lw::PuntKind::pcp, number});
      handed.store(++number);
    } else {
      std::this_thread::yield();
    }
    if (random() % 512 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(random() % 3));
  }
}

struct Reader {
  lw::Punt& punt;
  std::array<std::uint64_t, kLanes> seen{};

  void take() {
    const lw::Punt::Batch batch = punt.take();
    for (const lw::PuntRow& row : batch.rows) {
      std::uint64_t& number = seen[row.lane];
      if (row.at_ns != number) fail("a packet is missing or comes twice");
      check(batch.octets.data() + row.offset, row.length, number++);
    }
  }
  // False: nobody called within a second.
  bool called(int timeout_ms) const {
    pollfd descriptor{punt_fd, POLLIN, 0};
    return ::poll(&descriptor, 1, timeout_ms) == 1;
  }
  int punt_fd = punt.fd();
};

void inject(lw::Inject& to) {
  std::vector<std::uint8_t> octets;
  std::vector<std::uint32_t> lengths;
  for (std::uint64_t number = 0; !stop;) {
    octets.clear();
    lengths.clear();
    for (std::uint64_t n = number; n < number + 5; ++n) {
      lengths.push_back(length_of(n));
      octets.resize(octets.size() + lengths.back());
      fill(octets.data() + octets.size() - lengths.back(), lengths.back(), n);
    }
    const std::size_t taken = to.send(octets, lengths);
    number += taken;
    if (taken == 0) std::this_thread::yield();
  }
}

void take_injected(lw::InjectRing& ring) {
  lw::InjectRing::Record record;
  for (std::uint64_t number = 0; !stop;) {
    if (ring.empty() || !ring.front(record)) continue;
    check(record.octets, record.length, number++);
    ring.pop();
  }
}

}  // namespace

int main(int argc, char** argv) {
  const auto span = std::chrono::seconds(argc > 1 ? std::atoi(argv[1]) : 5);
  lw::Punt punt(kLanes, kRing);
  lw::Inject injected(kRing, 1500);
  std::array<std::atomic<std::uint64_t>, kLanes> handed{};
  Reader reader{.punt = punt};
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kLanes; ++i) threads.emplace_back([&, i] { lane(punt.ring(i), handed[i]); });
  threads.emplace_back([&] { inject(injected); });
  threads.emplace_back([&] { take_injected(injected.ring()); });
  const auto end = std::chrono::steady_clock::now() + span;
  std::uint64_t calls = 0;
  while (std::chrono::steady_clock::now() < end) {
    if (!reader.called(1000)) fail("packets wait and nobody is called");
    reader.take();
    ++calls;
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  reader.take();
  for (std::size_t i = 0; i < kLanes; ++i) {
    if (reader.seen[i] != handed[i].load()) fail("a packet was forgotten");
  }
  if (reader.called(20)) fail("called for nothing");
  punt.close();
  std::printf("%llu and %llu packets in %llu calls\n", static_cast<unsigned long long>(reader.seen[0]),
              static_cast<unsigned long long>(reader.seen[1]), static_cast<unsigned long long>(calls));
  return 0;
}
