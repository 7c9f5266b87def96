// The writer's protocol of cuckoo.hpp, every interleaving by lot: cuckoo_interleave [STEPS].
//
// A writer and two readers are fibers of one thread (fibers.hpp). The table is tiny: slots change hands all the time
// and most inserts move others. What is held against what: see table_stress.cpp.
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "fibers.hpp"

// Behind what says where it stops:
#include "cuckoo.hpp"

namespace {

struct Value {
  std::uint64_t of_key;
  std::uint64_t serial;
};
using Table = lw::Cuckoo<Value, std::uint32_t>;

constexpr std::size_t kSlots = 28;
constexpr std::size_t kBound = 27;
constexpr std::size_t kStay = 20;  // these keys never go
constexpr std::size_t kKeys = 31;

std::uint64_t key(std::size_t i) { return (i + 1) * 0x9e3779b97f4a7c15 >> 16; }
Value value_of(std::size_t i, std::uint64_t serial) { return {key(i) * 31 ^ serial, serial}; }
std::uint16_t tag_of(std::uint64_t serial) { return static_cast<std::uint16_t>(1 + serial % 1009); }

Table table(kSlots);
// The number of the last change of a key that began, and of the last that ended; odd = the key is in the table.
std::array<std::uint64_t, kKeys> started;
std::array<std::uint64_t, kKeys> finished;
std::array<std::uint64_t, 3> done;  // look-ups that hit, that missed, changes
std::mt19937_64 random_number(5);

[[noreturn]] void wrong(const char* what, std::size_t i) {
  std::printf("wrong: %s (key %zu)\n", what, i);
  std::fflush(stdout);
  std::_Exit(1);
}

bool change(std::size_t i, bool replace) {
  const std::uint64_t now = finished[i];
  const std::uint64_t next = now + (replace ? 2 : 1);
  started[i] = next;
  bool good = true;
  if (replace) {
    table.replace(table.locate(key(i)), tag_of(next), value_of(i, next));
  } else if (now % 2 == 1) {
    table.erase(table.locate(key(i)));
  } else {
    good = table.insert(key(i), tag_of(next), value_of(i, next), 0) != Table::kNoSlot;
  }
  if (!good) started[i] = now;  // four buckets are full for one key now and then
  finished[i] = started[i];
  ++done[2];
  return good;
}

void writer() {
  for (;;) {
    const std::size_t i = random_number() % kKeys;
    const bool bound = finished[i] % 2 == 1;
    const bool full = table.size() == kBound;
    if (bound && (i < kStay || !full)) {
      if (random_number() % 16 == 0) change(i, true);
    } else if (bound == full) {  // never far from full
      change(i, false);
    }
    fibers::step();
  }
}

void judge(std::size_t i, std::uint64_t before, const Table::Found* found, std::uint64_t& last) {
  const std::uint64_t after = started[i];
  ++done[found == nullptr];
  if (found == nullptr) {
    if (before % 2 == 1 && (after == before || i < kStay)) wrong("a key was missed", i);
    return;
  }
  const std::uint64_t serial = found->value.serial;
  if (found->value.of_key != value_of(i, serial).of_key || found->tag != tag_of(serial)) wrong("a mixed value", i);
  if (serial % 2 == 0 || serial > after || serial < before || serial < last) wrong("a value of another time", i);
  last = serial;
}

void reader_of_bursts() {
  std::array<std::uint64_t, kKeys> last{};
  constexpr unsigned kBurst = 4;
  for (;;) {
    std::array<std::size_t, kBurst> which;
    std::array<std::uint64_t, kBurst> keys;
    std::array<std::uint64_t, kBurst> before;
    std::array<Table::Found, kBurst> found;
    for (unsigned j = 0; j < kBurst; ++j) {
      which[j] = random_number() % kKeys;
      keys[j] = key(which[j]);
      before[j] = finished[which[j]];
    }
    const std::uint64_t hits =
        table.find_bulk(keys.data(), kBurst, [&](unsigned j, const Table::Found& hit) { found[j] = hit; });
    for (unsigned j = 0; j < kBurst; ++j) {
      judge(which[j], before[j], (hits >> j & 1) != 0 ? &found[j] : nullptr, last[which[j]]);
    }
  }
}

void reader_of_one() {
  std::array<std::uint64_t, kKeys> last{};
  for (;;) {
    const std::size_t i = random_number() % kKeys;
    const std::uint64_t before = finished[i];
    Table::Found found;
    const bool hit = table.find(key(i), found);
    judge(i, before, hit ? &found : nullptr, last[i]);
  }
}

}  // namespace

int main(int argc, char** argv) {
  lw::cuckoo::use(lw::cuckoo::Scan::portable);  // a search of seven steps
  for (std::size_t i = 0; i < kStay; ++i) {
    if (!change(i, false)) wrong("no room at the start", i);
  }
  fibers::prepare(fibers::all[0], writer);
  fibers::prepare(fibers::all[1], reader_of_bursts);
  fibers::prepare(fibers::all[2], reader_of_one);
  fibers::play(argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 16'000'000);
  std::printf("%llu changes, %llu hits, %llu misses, all right\n", static_cast<unsigned long long>(done[2]),
              static_cast<unsigned long long>(done[0]), static_cast<unsigned long long>(done[1]));
  return 0;
}
