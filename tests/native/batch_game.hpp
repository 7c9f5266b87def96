// Large batches beside readers that know what must be there: what batch_stress.cpp and batch_interleave.cpp play.
//
// The writer re-synchronises: it binds a snapshot of nearly all it has, some of it changed, some new, in or out of
// order, and sweeps what was not in it. The table is 95 % full at the end of each, and a batch is large enough to be
// worked on in the order of the table (binding_judge.hpp). Between snapshots come batches that only replace, some that
// go, and some that are refused for their last row. Readers hold each answer against a board on which the writer notes
// what is about to change and what has changed:
//   * a binding that was there all through the look-up is found, one that was away all through is not, and what is in
//     every snapshot is always found;
//   * B4 and BR belong to each other and to the key, and are none that was replaced before the look-up began;
//   * who sees the class of an address that a batch brings up finds all bindings of that batch.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <span>
#include <vector>

#include "binding_table.hpp"
#include "game_rows.hpp"

namespace batch {

using lw::BindingKey;
using lw::BindingRow;
using lw::Softwire;
using lw::Source;

using game_rows::kFirstAddress;
using game_rows::kK;
constexpr std::uint32_t kFirstWhole = 0x0b000000;

[[noreturn]] inline void wrong(const char* what, std::size_t i) {
  std::printf("wrong: %s (key %zu)\n", what, i);
  std::fflush(stdout);
  std::_Exit(1);
}

struct Game {
  explicit Game(std::size_t bound)
      : most(bound),
        keys(bound + bound / 3),
        whole_from(keys - keys / 8),
        stay(bound / 2),
        table(bound),
        board(keys),
        rising((whole_from >> kK) + 1 + keys / 8) {}

  bool whole(std::size_t i) const { return i >= whole_from; }
  std::size_t address(std::size_t i) const { return whole(i) ? (whole_from >> kK) + 1 + i - whole_from : i >> kK; }
  BindingKey key(std::size_t i) const {
    const auto n = static_cast<std::uint32_t>(i);
    if (whole(i)) return {kFirstWhole + n, 0};
    return game_rows::shared_key(n);
  }
  BindingRow row(std::size_t i, std::uint64_t serial) const {
    return game_rows::row(key(i), whole(i), game_rows::softwire(i, serial));
  }

  // The number of the last change that began, and of the last that ended; odd = bound.
  struct Entry {
    std::atomic<std::uint64_t> started;
    std::atomic<std::uint64_t> finished;
  };

  const std::size_t most;
  const std::size_t keys;
  const std::size_t whole_from;
  const std::size_t stay;  // keys below this are in every snapshot
  lw::BindingTable table;
  std::vector<Entry> board;
  // By address: the batch that found it without bindings and brings all that it has; 0: its bindings are of several.
  std::vector<std::atomic<std::uint32_t>> rising;
  std::uint64_t batches{}, rows{};
};

class Writer {
 public:
  explicit Writer(Game& game) : game_(game), generation_of_(game.keys), bindings_(game.rising.size()) {
    for (std::size_t i = 0; i < game.keys; ++i) others_.push_back(i);
    which_.assign(others_.begin(), others_.begin() + static_cast<std::ptrdiff_t>(game.most));
    bind();
  }

  void turn() {
    switch (random_() % 4) {
      case 0:
        return replace();
      case 1:
        return remove();
      case 2:
        return refused();
      default:
        return snapshot();
    }
  }

 private:
  bool bound(std::size_t i) const { return game_.board[i].finished.load(std::memory_order_relaxed) % 2 == 1; }
  std::size_t size() const { return game_.table.size(); }

  // All that is bound but a sixth, in the order of the keys or in none, and as many others as there is room for.
  void snapshot() {
    ++generation_;
    std::ranges::shuffle(others_, random_);
    std::size_t leave = size() / 6, room = game_.most - size();
    which_.clear();
    for (const std::size_t i : others_) {
      if (i < game_.stay) {
        which_.push_back(i);
      } else if (bound(i) ? leave == 0 : room > 0) {
        which_.push_back(i);
        room -= !bound(i);
      } else if (bound(i)) {
        --leave;
      }
    }
    if (random_() % 2 == 0) std::ranges::sort(which_);
    bind();
    sweep();
  }

  void replace() {
    which_.clear();
    for (std::size_t i = 0; i < game_.keys; ++i) {
      if (bound(i) && random_() % 2 == 0) which_.push_back(i);
    }
    if (random_() % 2 == 0) std::ranges::shuffle(which_, random_);
    bind();
  }

  void bind() {
    const Source source = Source::operator_;
    ++game_.batches;
    rows_.clear();
    next_.clear();
    for (const std::size_t i : which_) announce(i);
    for (std::size_t n = 0; n < which_.size(); ++n) {
      game_.board[which_[n]].started.store(next_[n], std::memory_order_release);
    }
    const lw::Report report = game_.table.bind(rows_, source, generation_);
    if (!report.ok()) wrong("a batch was refused", which_[report.refused[0].index]);
    for (std::size_t n = 0; n < which_.size(); ++n) {
      const std::size_t i = which_[n];
      bindings_[game_.address(i)] += !bound(i);
      game_.board[i].finished.store(next_[n], std::memory_order_release);
      generation_of_[i] = generation_;
    }
    game_.rows += rows_.size();
  }
  // Before anything of the batch begins.
  void announce(std::size_t i) {
    const std::uint64_t now = game_.board[i].finished.load(std::memory_order_relaxed);
    const bool same = now % 2 == 1 && random_() % 3 == 0;
    next_.push_back(now % 2 == 0 ? now + 1 : same ? now : now + 2);
    rows_.push_back(game_.row(i, next_.back()));
    if (now % 2 == 1) return;
    const bool first = bindings_[game_.address(i)] == 0;
    game_.rising[game_.address(i)].store(first ? static_cast<std::uint32_t>(game_.batches) : 0,
                                         std::memory_order_release);
  }

  void sweep() {
    begin_to_go([this](std::size_t i) { return generation_of_[i] != generation_; });
    if (game_.table.sweep(Source::operator_, generation_).size() != which_.size()) wrong("what a sweep removed", 0);
    gone();
  }
  void remove() {
    begin_to_go([this](std::size_t i) { return i >= game_.stay && random_() % 8 == 0; });
    std::vector<BindingKey> keys;
    for (const std::size_t i : which_) keys.push_back(game_.key(i));
    if (!game_.table.unbind(keys, Source::operator_).ok()) wrong("unbind was refused", 0);
    gone();
  }
  template <class Goes>
  void begin_to_go(Goes goes) {
    which_.clear();
    for (std::size_t i = 0; i < game_.keys; ++i) {
      if (!bound(i) || !goes(i)) continue;
      which_.push_back(i);
      Game::Entry& entry = game_.board[i];
      entry.started.store(entry.finished.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    }
  }
  void gone() {
    for (const std::size_t i : which_) {
      Game::Entry& entry = game_.board[i];
      entry.finished.store(entry.started.load(std::memory_order_relaxed), std::memory_order_release);
      --bindings_[game_.address(i)];
    }
  }

  // All or nothing: other softwires for all, and one row too many.
  void refused() {
    rows_.clear();
    for (std::size_t i = 0; i < game_.keys; ++i) {
      if (bound(i)) rows_.push_back(game_.row(i, 1ULL << 40));
    }
    rows_.push_back(game_.row(0, 1));
    rows_.back().psid = 1U << kK;
    const lw::Report report = game_.table.bind(rows_, Source::operator_, generation_ + 1);
    if (report.refused.size() != 1 || report.refused[0].index != rows_.size() - 1) wrong("what is refused", 0);
  }

  Game& game_;
  std::vector<std::uint32_t> generation_of_;
  std::vector<unsigned> bindings_;  // by address
  std::vector<std::size_t> others_;
  std::vector<std::size_t> which_;
  std::vector<std::uint64_t> next_;
  std::vector<BindingRow> rows_;
  std::uint32_t generation_{};
  std::mt19937_64 random_{11};
};

class Reader {
 public:
  Reader(Game& game, std::uint64_t seed) : game_(game), last_(game.keys), random_(seed) {}

  void burst(unsigned n) {
    std::array<std::size_t, kBurst> which;
    std::array<BindingKey, kBurst> keys{};
    std::array<std::uint64_t, kBurst> before;
    std::array<Softwire, kBurst> out;
    for (unsigned j = 0; j < n; ++j) {
      which[j] = random_() % game_.keys;
      keys[j] = game_.key(which[j]);
      before[j] = finished(which[j]);
    }
    const std::uint64_t hits = game_.table.find_bulk(keys.data(), n, out.data());
    for (unsigned j = 0; j < n; ++j) judge(which[j], before[j], (hits >> j & 1) != 0, out[j]);
  }

  void single() {
    const std::size_t i = random_() % game_.keys;
    const std::uint64_t before = finished(i);
    const std::uint32_t rising = game_.rising[game_.address(i)].load(std::memory_order_acquire);
    const lw::AddressClass address = game_.table.classify(game_.key(i).ipv4);
    const std::uint64_t then = started(i);
    Softwire out;
    const bool found = game_.table.find(game_.key(i), out);
    judge(i, before, found, out);
    const std::uint64_t after = started(i);
    const bool up = address.use() != lw::AddressUse::none;
    if (after == before && before % 2 == 1 && !right(i, address)) wrong("the class of a bound address", i);
    if (after == before && before % 2 == 0 && game_.whole(i) && up) wrong("the class of an unbound address", i);
    const bool one_batch = rising != 0 && rising == game_.rising[game_.address(i)].load(std::memory_order_acquire);
    if (one_batch && up && then % 2 == 1 && then == after && !found) wrong("an address before its bindings", i);
  }
  std::uint64_t look_ups() const { return look_ups_; }

  static constexpr unsigned kBurst = lw::BindingTable::kBulk;

 private:
  std::uint64_t finished(std::size_t i) const { return game_.board[i].finished.load(std::memory_order_acquire); }
  std::uint64_t started(std::size_t i) const { return game_.board[i].started.load(std::memory_order_acquire); }
  bool right(std::size_t i, const lw::AddressClass& address) const {
    if (game_.whole(i)) return address.use() == lw::AddressUse::whole;
    return address.use() == lw::AddressUse::shared && address.params() == lw::PortSetParams{6, kK};
  }

  void judge(std::size_t i, std::uint64_t before, bool found, const Softwire& out) {
    ++look_ups_;
    const std::uint64_t after = started(i);
    if (!found) {
      if (before % 2 == 1 && (after == before || i < game_.stay)) wrong("a bound key was missed", i);
      return;
    }
    const std::uint64_t serial = out.b4.low;
    if (!(out == game_rows::softwire(i, serial))) wrong("a softwire of two parts", i);
    if (serial % 2 == 0 || serial > after) wrong("a softwire that never was", i);
    if (serial < before || serial < last_[i]) wrong("a softwire that had gone before", i);
    last_[i] = serial;
  }

  Game& game_;
  std::uint64_t look_ups_{};
  std::vector<std::uint64_t> last_;
  std::mt19937_64 random_;
};

inline void report(const Game& game, std::uint64_t look_ups) {
  std::printf("%zu bindings, fill %.3f: %llu batches of %llu rows, %llu look-ups, all right\n", game.most,
              static_cast<double>(game.most) / static_cast<double>(game.table.slots()),
              static_cast<unsigned long long>(game.batches), static_cast<unsigned long long>(game.rows),
              static_cast<unsigned long long>(look_ups));
}

}  // namespace batch
