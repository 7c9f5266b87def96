// One writer that never rests and two readers that know what must be in the table: table_stress [SECONDS].
//
// The writer keeps a nearly full table (95 % of the slots) busy: bindings come and go, so others are moved all the
// time, whole addresses come and go, softwires are replaced in place. Readers hold each answer against a board on which
// the writer notes, before and after each change, what is bound and which softwire it already has:
//   * a binding that was there all through the look-up is found, one that was away all through is not;
//   * B4 and BR belong to each other and to the key; a softwire is not older than the board said before the look-up,
//     not newer than it says after, and never older than what this reader saw last.
// Another thread makes the table larger all the time, so readers meet old and new tables.
// Exits non-zero with the first wrong answer. Built with TSan it looks for races as well.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "binding_table.hpp"
#include "game_rows.hpp"

namespace {

using lw::BindingKey;
using lw::BindingRow;
using lw::Ipv6;
using lw::Softwire;
using lw::Source;

using game_rows::kFirstAddress;
using game_rows::kK;

// Key i of the game. The last eighth are whole addresses, which appear and disappear as such.
struct Game {
  explicit Game(std::size_t bound)
      : most(bound),
        keys(bound + bound / 3 + 2),
        whole_from(keys - keys / 8),
        stay(bound / 2),
        table(bound),
        board(keys) {}

  bool whole(std::size_t i) const { return i >= whole_from; }
  BindingKey key(std::size_t i) const {
    const auto n = static_cast<std::uint32_t>(i);
    if (whole(i)) return {kFirstAddress + 0x100000 + n, 0};
    return game_rows::shared_key(n);
  }
  BindingRow row(std::size_t i, std::uint64_t serial) const {
    return game_rows::row(key(i), whole(i), game_rows::softwire(i, serial));
  }

  // `started` is written before a change and `finished` after it, both with the number of the change; odd = bound.
  struct alignas(64) Entry {
    std::atomic<std::uint64_t> started;
    std::atomic<std::uint64_t> finished;
  };

  const std::size_t most;
  const std::size_t keys;
  const std::size_t whole_from;
  const std::size_t stay;  // keys below this are bound from the start to the end
  lw::BindingTable table;
  std::vector<Entry> board;
  std::atomic<bool> stop{};
  std::atomic<std::uint64_t> changes{};
  std::atomic<std::uint64_t> look_ups{};

  // The turns of the readers, as workers count theirs; odd while one is reading.
  std::array<std::atomic<std::uint64_t>, 2> turns{};
  void wait_for_readers() {
    for (std::atomic<std::uint64_t>& turn : turns) {
      const std::uint64_t seen = turn.load(std::memory_order_seq_cst);
      while (seen % 2 == 1 && turn.load(std::memory_order_seq_cst) == seen) std::this_thread::yield();
    }
  }
};

[[noreturn]] void wrong(const char* what, std::size_t i) {
  std::printf("wrong: %s (key %zu)\n", what, i);
  std::fflush(stdout);
  std::_Exit(1);
}

class Writer {
 public:
  explicit Writer(Game& game) : game_(game), bound_(game.keys) {
    for (std::size_t i = 0; i < game.most; ++i) bind(i);
  }
  void run() {
    while (!game_.stop.load(std::memory_order_relaxed)) {
      const std::size_t i = random_() % game_.keys;
      if (i < game_.stay || (bound_[i] && random_() % 4 == 0)) {
        bind(i);  // replaces
      } else if (bound_[i]) {
        unbind(i);
      } else {
        while (game_.table.size() == game_.most) make_room();
        bind(i);
      }
      game_.changes.fetch_add(1, std::memory_order_relaxed);
    }
  }

 private:
  void make_room() {
    const std::size_t i = game_.stay + random_() % (game_.keys - game_.stay);
    if (bound_[i]) unbind(i);
  }
  // Serials are even or odd as the key is away or bound, so a replacement takes two.
  void bind(std::size_t i) {
    Game::Entry& entry = game_.board[i];
    const std::uint64_t next = entry.finished.load(std::memory_order_relaxed) + (bound_[i] ? 2 : 1);
    entry.started.store(next, std::memory_order_release);
    const BindingRow row = game_.row(i, next);
    if (!game_.table.bind({&row, 1}, Source::operator_, 1).ok()) wrong("bind was refused", i);
    entry.finished.store(next, std::memory_order_release);
    bound_[i] = true;
  }
  void unbind(std::size_t i) {
    Game::Entry& entry = game_.board[i];
    const std::uint64_t next = entry.finished.load(std::memory_order_relaxed) + 1;
    entry.started.store(next, std::memory_order_release);
    const BindingKey key = game_.key(i);
    if (!game_.table.unbind({&key, 1}, Source::operator_).ok()) wrong("unbind was refused", i);
    entry.finished.store(next, std::memory_order_release);
    bound_[i] = false;
  }

  Game& game_;
  std::vector<bool> bound_;
  std::mt19937_64 random_{11};
};

class Reader {
 public:
  Reader(Game& game, std::uint64_t seed, bool bulk)
      : game_(game), bulk_(bulk), turn_(game.turns[bulk ? 0 : 1]), last_(game.keys), random_(seed) {}

  void run() {
    while (!game_.stop.load(std::memory_order_relaxed)) {
      turn_.fetch_add(1, std::memory_order_seq_cst);
      bulk_ ? burst() : single();
      turn_.fetch_add(1, std::memory_order_seq_cst);
    }
    game_.look_ups.fetch_add(look_ups_, std::memory_order_relaxed);
  }

 private:
  static constexpr unsigned kBurst = lw::BindingTable::kBulk;

  void burst() {
    std::array<std::size_t, kBurst> which;
    std::array<BindingKey, kBurst> keys;
    std::array<std::uint64_t, kBurst> before;
    std::array<Softwire, kBurst> out;
    for (unsigned n = 0; n < kBurst; ++n) {
      which[n] = random_() % game_.keys;
      keys[n] = game_.key(which[n]);
      before[n] = game_.board[which[n]].finished.load(std::memory_order_acquire);
    }
    const std::uint64_t hits = game_.table.find_bulk(keys.data(), kBurst, out.data());
    for (unsigned n = 0; n < kBurst; ++n) judge(which[n], before[n], (hits >> n & 1) != 0, out[n]);
  }

  void single() {
    const std::size_t i = random_() % game_.keys;
    const std::uint64_t before = game_.board[i].finished.load(std::memory_order_acquire);
    const lw::AddressClass address = game_.table.classify(game_.key(i).ipv4);
    Softwire out;
    const bool found = game_.table.find(game_.key(i), out);
    judge(i, before, found, out);
    const bool still = game_.board[i].started.load(std::memory_order_acquire) == before;
    if (still && before % 2 == 1 && !address_right(i, address)) wrong("the class of a bound address", i);
    if (still && before % 2 == 0 && game_.whole(i) && address.use() != lw::AddressUse::none) {
      wrong("the class of an unbound address", i);
    }
  }
  bool address_right(std::size_t i, const lw::AddressClass& address) const {
    if (game_.whole(i)) return address.use() == lw::AddressUse::whole;
    return address.use() == lw::AddressUse::shared && address.params() == lw::PortSetParams{6, kK};
  }

  void judge(std::size_t i, std::uint64_t before, bool found, const Softwire& out) {
    ++look_ups_;
    const std::uint64_t after = game_.board[i].started.load(std::memory_order_acquire);
    if (!found) {
      if (before % 2 == 1 && (after == before || i < game_.stay)) wrong("a bound key was missed", i);
      return;
    }
    const std::uint64_t serial = out.b4.low;
    if (!(out == game_rows::softwire(i, serial))) wrong("a softwire of two parts", i);
    if (serial % 2 == 0 || serial > after) wrong("a softwire that never was", i);
    if (serial < before) wrong("a softwire that had gone before", i);
    if (serial < last_[i]) wrong("a softwire older than the one seen before it", i);
    last_[i] = serial;
  }

  Game& game_;
  bool bulk_;
  std::atomic<std::uint64_t>& turn_;
  std::uint64_t look_ups_{};
  std::vector<std::uint64_t> last_;
  std::mt19937_64 random_;
};

// Grows by a little, again and again, with a visitor beside it that is no worker.
void grow(Game& game, unsigned& grown) {
  std::size_t room = game.table.capacity();
  for (; !game.stop.load(std::memory_order_relaxed); ++grown) {
    room += 1 + room / 64;
    game.table.grow(room);
    if (game.table.capacity() != room || game.table.slots() < room) wrong("the room of a table that has grown", room);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

void visit(Game& game) {
  while (!game.stop.load(std::memory_order_relaxed)) {
    const lw::BindingTable::Visit visit(game.table);
    Softwire out;
    if (!game.table.find(game.key(0), out)) wrong("a visitor missed a bound key", 0);
  }
}

void play(std::size_t bound, double seconds, bool growing) {
  Game game(bound);
  game.table.set_grace([&game] { game.wait_for_readers(); });
  Writer writer(game);
  Reader bursts(game, 21, true);
  Reader singles(game, 22, false);
  unsigned grown = 0;
  std::vector<std::jthread> threads;
  threads.emplace_back([&] { writer.run(); });
  threads.emplace_back([&] { bursts.run(); });
  threads.emplace_back([&] { singles.run(); });
  if (growing) threads.emplace_back([&] { grow(game, grown); });
  if (growing) threads.emplace_back([&] { visit(game); });
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  game.stop = true;
  for (std::jthread& thread : threads) thread.join();
  if (growing && grown == 0) wrong("the table never grew", 0);
  std::printf("%8zu bindings, fill %.3f, grown %u times: %llu changes, %llu look-ups, all right\n", bound,
              static_cast<double>(bound) / static_cast<double>(game.table.slots()), grown,
              static_cast<unsigned long long>(game.changes.load()),
              static_cast<unsigned long long>(game.look_ups.load()));
}

// The writer waits for readers before an address that had other parameters is given out again, and only then.
void grace_before_other_params() {
  lw::BindingTable table(100);
  unsigned waits = 0;
  bool visible = false;
  const BindingKey key{kFirstAddress, 1};
  table.set_grace([&] {
    Softwire out;
    ++waits;
    visible = visible || table.find(key, out) || table.classify(key.ipv4).use() != lw::AddressUse::none;
  });
  const auto come_and_go = [&](std::uint8_t offset, std::uint8_t length) {
    BindingRow row{.ipv4 = key.ipv4, .psid = key.psid, .psid_len = length, .psid_offset = offset, .b4 = {1}, .br = {2}};
    if (!table.bind({&row, 1}, Source::config, 1).ok()) wrong("bind was refused", 0);
    if (!table.unbind({&key, 1}, Source::config).ok()) wrong("unbind was refused", 0);
  };
  for (const auto& [length, expected] : {std::pair{6, 0U}, {6, 0U}, {7, 1U}, {7, 1U}, {6, 2U}}) {
    come_and_go(0, static_cast<std::uint8_t>(length));
    if (waits != expected) wrong("waiting for readers", 0);
  }
  if (visible) wrong("something to see before the readers had gone", 0);
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 6;
  grace_before_other_params();
  // Few keys: readers and writer meet all the time. More keys: long ways of displacement.
  for (const std::size_t bound : {std::size_t{24}, std::size_t{600}, std::size_t{30'000}}) {
    play(bound, seconds / 5, false);
  }
  for (const std::size_t bound : {std::size_t{24}, std::size_t{3'000}}) play(bound, seconds / 5, true);
  return 0;
}
