// Both ways to search buckets find the same: cuckoo_scans. One bucket with all there can be in it; then tables of many
// sizes and fills that a writer keeps changing, and bursts of keys that are there, were there, moved, or never came,
// key 0 among them. Exits non-zero and says what was wrong. Built twice: with AVX2 everywhere, and for a CPU without
// it, where what searches with AVX2 is chosen at the start.
#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <random>
#include <vector>

#include "cuckoo.hpp"

namespace {

using lw::cuckoo::Avx2Scan;
using lw::cuckoo::Bucket;
using lw::cuckoo::kSlots;
using lw::cuckoo::PortableScan;
using lw::cuckoo::Scan;

struct Value {
  std::uint64_t first;
  std::uint64_t second;
  bool operator==(const Value&) const = default;
};
using Table = lw::Cuckoo<Value, std::uint32_t>;

std::mt19937_64 random_number(3);

void check(bool good, const char* what) {
  if (good) return;
  std::printf("wrong: %s\n", what);
  std::exit(1);
}

std::uint16_t some_tag() { return static_cast<std::uint16_t>(1 + random_number() % 0xffff); }

// Keys that differ in one bit, at each end of the word too; each key in each slot, and in several.
void in_one_bucket() {
  for (int round = 0; round < 100'000; ++round) {
    const std::uint64_t wanted = random_number() % 8 == 0 ? 0 : random_number() >> 16 >> random_number() % 48;
    Bucket bucket{.version = random_number() % 2 == 0 ? wanted << 16 : random_number(), .word = {}};
    unsigned holds = 0;
    for (unsigned i = 0; i < kSlots; ++i) {
      const std::uint64_t other = wanted ^ std::uint64_t{1} << random_number() % 48;
      const unsigned what = random_number() % 4;
      bucket.word[i] = what == 0 ? 0 : lw::cuckoo::word_of(what == 1 ? wanted : other, some_tag());
      holds |= static_cast<unsigned>(what == 0 ? wanted == 0 : what == 1) << i;
    }
    check(PortableScan::match(bucket, wanted) == holds, "the portable search of a bucket");
    check(Avx2Scan::match(bucket, wanted) == holds, "the search of a bucket with AVX2");
  }
}

class Game {
 public:
  explicit Game(std::size_t slots) : table_(slots) {
    for (std::size_t i = 0; i < table_.slots() * 2; ++i) keys_.push_back(i == 0 ? 0 : random_number() >> 16);
  }
  void play(unsigned rounds) {
    for (unsigned round = 0; round < rounds; ++round) {
      for (unsigned i = 0; i < 8; ++i) change();
      burst();
    }
  }
  std::uint64_t hits() const { return hits_; }

 private:
  using Answers = std::array<std::optional<Table::Found>, Table::kBulk>;

  std::uint64_t key() const { return keys_[random_number() % keys_.size()]; }

  void change() {
    const std::uint64_t one = key();
    const Table::Slot slot = table_.locate(one);
    const Value value{one, random_number()};
    const bool room = table_.size() * 20 < table_.slots() * 19;  // a search for a way that is not there takes long
    if (slot == Table::kNoSlot) {
      if (room) (void)table_.insert(one, some_tag(), value, 0);
    } else if (random_number() % 8 == 0) {
      table_.erase(slot);
    } else {
      table_.replace(slot, some_tag(), value);
    }
  }

  void burst() {
    const auto n = static_cast<unsigned>(random_number() % (Table::kBulk + 1));
    Table::Query asked{};
    for (unsigned i = 0; i < n; ++i) table_.ask(asked, i, key());
    std::array<Table::Query, 2> located{asked, asked};
    std::array<Answers, 2> before, after;
    for (const Scan scan : {Scan::portable, Scan::avx2}) {
      check(lw::cuckoo::use(scan), "a way to search that cannot be had");
      table_.locate(located[std::size_t(scan)], n);
    }
    const auto same_homes = [](const Table::Query& a, const Table::Query& b, unsigned i) {
      return a.at[i] == b.at[i] && a.homes[i].first == b.homes[i].first;
    };
    for (unsigned i = 0; i < n; ++i) check(same_homes(located[0], located[1], i), "a burst is located in two places");
    take(located, n, before);
    for (unsigned i = 0; i < 16; ++i) change();  // what was located is a hint from here on
    take(located, n, after);
  }

  void take(const std::array<Table::Query, 2>& located, unsigned n, std::array<Answers, 2>& answers) {
    for (const Scan scan : {Scan::portable, Scan::avx2}) {
      lw::cuckoo::use(scan);
      for (unsigned i = 0; i < n; ++i) {
        const Table::Query& query = located[std::size_t(scan)];
        Table::Found found;
        auto& answer = answers[std::size_t(scan)][i];
        if (table_.take_seen(query, i, found) || table_.find(query.keys[i], found)) answer = found;
        const Table::Slot slot = table_.locate(query.keys[i]);
        check((slot != Table::kNoSlot) == answer.has_value(), "the writer and a reader see another table");
        if (!answer) continue;
        ++hits_;
        check(answer->value == table_.value(slot) && answer->tag == table_.tag(slot), "another entry was taken");
        check(answer->value.first == query.keys[i], "the entry of another key was taken");
      }
    }
    for (unsigned i = 0; i < n; ++i) {
      const auto &portable = answers[0][i], &avx2 = answers[1][i];
      check(portable.has_value() == avx2.has_value(), "only one of them finds a key");
      check(!portable || (portable->tag == avx2->tag && portable->value == avx2->value), "they find different entries");
    }
  }

  Table table_;
  std::vector<std::uint64_t> keys_;
  std::uint64_t hits_{};
};

}  // namespace

int main() {
  if (!lw::cuckoo::can(Scan::avx2)) {
    std::puts("this CPU has no AVX2: there is one way to search");
    return 0;
  }
  check(lw::cuckoo::scan() == Scan::avx2, "AVX2 was not chosen on a CPU that has it");
  in_one_bucket();
  std::uint64_t hits = 0;
  for (const std::size_t slots : {14, 28, 70, 700, 7'000}) {
    for (int times = 0; times < 4; ++times) {
      Game game(slots);
      game.play(400);
      hits += game.hits();
    }
  }
  check(lw::cuckoo::use(Scan::portable) && lw::cuckoo::scan() == Scan::portable, "choosing the portable search");
  std::printf("both ways to search found the same, %llu entries\n", static_cast<unsigned long long>(hits));
  return 0;
}
