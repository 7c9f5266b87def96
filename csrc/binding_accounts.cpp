#include "binding_accounts.hpp"

namespace lw {

namespace {

// A cuckoo table takes 95 % and more; keys that change often need no more than that, and this has to hold all of them.
std::size_t index_slots_for(std::size_t bindings) { return bindings + bindings / 10 + 64; }

// Numbers beside those in use: so many rest before a grace period is waited for.
constexpr std::size_t kSpare = 4096;

}  // namespace

BindingAccounts::BindingAccounts(std::size_t max_bindings)
    : numbers_(max_bindings + kSpare), index_(index_slots_for(max_bindings)) {}

Account* BindingAccounts::open_book() {
  books_.emplace_back((numbers_ + 1) * sizeof(Account), Pages::Use::dense);
  return books_.back().as<Account>();
}

bool BindingAccounts::open(std::uint64_t key, const std::function<void()>& grace) {
  if (clean_.empty() && fresh_ > numbers_) recycle(grace);
  if (clean_.empty() && fresh_ > numbers_) return false;
  const Number number = clean_.empty() ? fresh_ : clean_.front();
  if (index_.insert(key, 1, number, {}) == Index::kNoSlot) return false;
  if (clean_.empty()) {
    ++fresh_;
  } else {
    clean_.pop_front();
  }
  return true;
}

void BindingAccounts::close(std::uint64_t key) {
  const Index::Slot slot = index_.locate(key);
  if (slot == Index::kNoSlot) return;
  resting_.push_back(static_cast<Number>(index_.value(slot)));
  index_.erase(slot);
}

void BindingAccounts::recycle(const std::function<void()>& grace) {
  if (resting_.empty()) return;
  reuses_.store(reuses_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  if (grace) grace();
  for (const Number number : resting_) {
    for (const Pages& book : books_) {
      for (auto& field : book.as<Account>()[number].fields) field.store(0, std::memory_order_relaxed);
    }
    clean_.push_back(number);
  }
  resting_.clear();
}

BindingAccounts::Sum BindingAccounts::sum(std::uint64_t key) const {
  const Number number = find(key);
  Sum total{};
  if (number == 0) return total;
  for (const Pages& book : books_) {
    const Account& account = book.as<Account>()[number];
    for (std::size_t i = 0; i < total.size(); ++i) total[i] += account.fields[i].load(std::memory_order_relaxed);
  }
  return total;
}

std::size_t BindingAccounts::memory() const {
  std::size_t octets = index_.reader_octets() + index_.writer_octets();
  for (const Pages& book : books_) octets += book.octets();
  return octets;
}

}  // namespace lw
