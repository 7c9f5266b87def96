// How full a cuckoo table of a million slots gets, and that being full loses nothing, whichever way buckets are
// searched. Exits non-zero and says what was wrong. Built twice, with AVX2 everywhere and with the choice at the start.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <vector>

#include "cuckoo.hpp"

namespace {

using lw::cuckoo::Scan;

struct Value {
  std::uint64_t first;
  std::uint64_t second;
  bool operator==(const Value&) const = default;
};
using Table = lw::Cuckoo<Value, std::uint32_t>;

constexpr std::size_t kMillion = 1'000'000;
constexpr double kMustFill = 0.95;

void check(bool good, const char* what) {
  if (good) return;
  std::printf("wrong: %s\n", what);
  std::exit(1);
}

Value value_of(std::uint64_t key) { return {key * 0x9e3779b97f4a7c15, ~key}; }
std::uint16_t tag_of(std::uint64_t key) { return static_cast<std::uint16_t>(1 + key % 0xffff); }

bool right(std::uint64_t key, const Table::Found& found) {
  return found.tag == tag_of(key) && found.value == value_of(key);
}

void all_there(const Table& table, const std::vector<std::uint64_t>& keys, Scan scan) {
  if (!lw::cuckoo::use(scan)) return;  // this CPU cannot
  for (std::size_t first = 0; first < keys.size(); first += Table::kBulk) {
    const auto n = static_cast<unsigned>(std::min<std::size_t>(Table::kBulk, keys.size() - first));
    bool values = true;
    const std::uint64_t hits = table.find_bulk(&keys[first], n, [&](unsigned i, const Table::Found& found) {
      values = values && right(keys[first + i], found);
    });
    check(hits == (n == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1), "a key was lost");
    check(values, "a bulk look-up returned another key's value");
  }
  Table::Found found;
  for (const std::uint64_t key : keys) check(table.find(key, found) && right(key, found), "find() and its value");
}

// Inserts until the table says that it is full; returns the keys that are in.
std::vector<std::uint64_t> fill(Table& table, const char* pattern,
                                const std::function<std::uint64_t(std::size_t)>& key) {
  std::vector<std::uint64_t> keys;
  for (std::size_t i = 0;; ++i) {
    if (table.insert(key(i), tag_of(key(i)), value_of(key(i)), static_cast<std::uint32_t>(i)) == Table::kNoSlot) break;
    keys.push_back(key(i));
  }
  const double reached = static_cast<double>(keys.size()) / static_cast<double>(table.slots());
  std::printf("%-40s full at %.4f of %zu slots\n", pattern, reached, table.slots());
  check(reached >= kMustFill, "full below 95 %");
  check(table.size() == keys.size(), "size() of a full table");
  Table::Found found;
  check(!table.find(key(keys.size()), found), "a refused key is found");
  for (const Scan scan : {Scan::portable, Scan::avx2}) all_there(table, keys, scan);
  return keys;
}

void notes_move_with_their_keys(const Table& table, const std::vector<std::uint64_t>& keys) {
  for (std::size_t i = 0; i < keys.size(); ++i) check(table.note(table.locate(keys[i])) == i, "a note at another key");
}

// Every second key goes, others come: the table fills again, and nobody else's key is touched.
void refill(Table& table, std::vector<std::uint64_t> keys) {
  std::vector<std::uint64_t> stay;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    i % 2 == 0 ? table.erase(table.locate(keys[i])) : stay.push_back(keys[i]);
  }
  std::mt19937_64 random(7);
  while (table.size() < static_cast<std::size_t>(kMustFill * static_cast<double>(table.slots()))) {
    const std::uint64_t key = random() >> 16;
    if (table.locate(key) != Table::kNoSlot) continue;
    check(table.insert(key, tag_of(key), value_of(key), 0) != Table::kNoSlot, "refill below 95 %");
    stay.push_back(key);
  }
  for (const Scan scan : {Scan::portable, Scan::avx2}) all_there(table, stay, scan);
}

}  // namespace

int main() {
  Table random_keys(kMillion);
  std::vector<std::uint64_t> random(kMillion + kMillion / 8);
  std::mt19937_64 generator(1);
  for (std::uint64_t& key : random) key = generator() >> 16;
  const auto keys = fill(random_keys, "random keys", [&](std::size_t i) { return random[i]; });
  notes_move_with_their_keys(random_keys, keys);
  refill(random_keys, keys);

  // Keys as they come: whole addresses in a row, 64 PSIDs each, one PSID bit in front, every 256th address. Key 0 too.
  Table whole(kMillion);
  fill(whole, "addresses in a row", [](std::size_t i) { return std::uint64_t{i} << 16; });
  Table shared(kMillion);
  fill(shared, "64 PSIDs an address", [](std::size_t i) { return std::uint64_t{0x0a000000 + i / 64} << 16 | i % 64; });
  Table high_bits(kMillion);
  fill(high_bits, "PSIDs 0, 256, 512 ...", [](std::size_t i) { return std::uint64_t{i / 256} << 16 | i % 256 << 8; });
  Table sparse(kMillion);
  fill(sparse, "every 256th address", [](std::size_t i) { return std::uint64_t{i * 256} << 16; });
  Table lattice(kMillion / 3);
  fill(lattice, "every 2048th address, PSIDs 0, 64 ...",
       [](std::size_t i) { return std::uint64_t{i / 4 * 2048} << 16 | i % 4 << 6; });
  return 0;
}
