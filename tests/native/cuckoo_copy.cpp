// A reader's copies of values of 16 octets, loaded at once, while another thread replaces, moves and removes: each is a
// whole one of its key. The interleavers and TSan look at copies made half by half, so this runs without either.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <thread>

#include "cuckoo.hpp"
#include "types.hpp"

namespace {

using namespace lw;

struct Note {};
using Table = Cuckoo<Ipv6, Note>;

constexpr unsigned kKeys = 110, kRoom = 140;  // few buckets: keys move all the time
constexpr std::uint64_t kWrites = 3'000'000;

// In different buckets; those of even number are always there.
std::uint64_t key_of(unsigned number) { return std::uint64_t{number + 1} << 16 | number; }
Ipv6 value_of(std::uint64_t key, std::uint64_t turn) {
  const std::uint64_t high = key << 20 | (turn & 0xfffff);
  return {high, ~high};
}
std::uint16_t tag_of(std::uint64_t turn) { return static_cast<std::uint16_t>(1 + (turn & 7)); }

bool whole(const Table::Found& found, std::uint64_t key) {
  const std::uint64_t turn = found.value.high & 0xfffff;
  const Ipv6 value = value_of(key, turn);
  return found.value.high == value.high && found.value.low == value.low && found.tag == tag_of(turn);
}

struct Seen {
  std::uint64_t hits = 0, missed = 0, torn = 0;
};

Seen read(const Table& table, const std::atomic<bool>& done) {
  Seen seen;
  while (!done.load()) {
    for (unsigned number = 0; number < kKeys; number += 2) {
      Table::Found found;
      if (!table.find(key_of(number), found)) {
        ++seen.missed;
      } else {
        ++seen.hits;
        seen.torn += whole(found, key_of(number)) ? 0 : 1;
      }
    }
  }
  return seen;
}

void write(Table& table) {
  for (std::uint64_t turn = 1; turn <= kWrites; ++turn) {
    const auto number = static_cast<unsigned>(turn * 7919 % kKeys);
    const std::uint64_t key = key_of(number);
    const auto slot = table.locate(key);
    if (number % 2 == 0) {
      table.replace(slot, tag_of(turn), value_of(key, turn));
    } else if (slot != Table::kNoSlot) {
      table.erase(slot);
    } else {
      table.insert(key, tag_of(turn), value_of(key, turn), {});
    }
  }
}

}  // namespace

int main() {
  Table table(kRoom);
  for (unsigned number = 0; number < kKeys; ++number) {
    if (table.insert(key_of(number), tag_of(0), value_of(key_of(number), 0), {}) == Table::kNoSlot) return 2;
  }
  std::atomic<bool> done{false};
  Seen seen;
  std::thread reader([&] { seen = read(table, done); });
  write(table);
  done.store(true);
  reader.join();
  std::printf("%llu writes, %llu hits, %llu missed, %llu torn\n", static_cast<unsigned long long>(kWrites),
              static_cast<unsigned long long>(seen.hits), static_cast<unsigned long long>(seen.missed),
              static_cast<unsigned long long>(seen.torn));
  return seen.hits > 0 && seen.missed == 0 && seen.torn == 0 ? 0 : 1;
}
