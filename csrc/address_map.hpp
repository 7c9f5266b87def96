// IPv4 address -> AddressClass: 2^24 entries for the /24s, then 256 octets for each /24 that was ever used.
//
// Readers take three loads, of which only the last is ever far away. A /24 keeps its octets for the life of the table:
// given to another /24, they would tell a slow reader about the wrong address.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "address_class.hpp"
#include "numa.hpp"
#include "pages.hpp"
#include "types.hpp"

namespace lw {

class AddressMap {
 public:
  explicit AddressMap(numa::Home& home)
      : home_(home), directory_(kDirectory * sizeof(std::uint32_t), Pages::Use::sparse) {
    home_.place(directory_.range());
    add_block();
  }

  // --- readers ---

  [[gnu::always_inline]] AddressClass at(Ipv4 address) const noexcept {
    const std::uint32_t block = entry(address).load(std::memory_order_acquire);
    const std::uint8_t* codes = blocks_[block / kPerChunk].load(std::memory_order_relaxed);
    std::uint8_t& code = const_cast<std::uint8_t*>(codes)[code_index(block, address)];
    return AddressClass::from_code(std::atomic_ref<std::uint8_t>(code).load(std::memory_order_acquire));
  }

  // False: no address of its /24 was ever used.
  [[gnu::always_inline]] bool near(Ipv4 address) const noexcept {
    return entry(address).load(std::memory_order_acquire) != 0;
  }

  // --- the writer ---

  // What the writer knows of an address beside the class that readers see.
  struct Tally {
    std::uint16_t more[256];    // bindings beyond the first; means nothing for an address without a class
    std::uint8_t pending[256];  // class that the batch at hand wants to give
    std::uint8_t last[256];     // class of an address that has lost it; readers may still act on it
  };

  std::uint8_t& pending(Ipv4 address) { return tally(address).pending[address & 0xff]; }
  AddressClass last(Ipv4 address) { return AddressClass::from_code(tally(address).last[address & 0xff]); }

  // One more binding of the address. The first one publishes the class that is pending.
  void add(Ipv4 address) {
    Tally& counts = tally(address);
    std::uint16_t& more = counts.more[address & 0xff];
    if (at(address).use() == AddressUse::none) {
      more = 0;
      publish(address, AddressClass::from_code(counts.pending[address & 0xff]));
    } else {
      ++more;
    }
  }
  // One binding less. The last one takes the class back.
  void remove(Ipv4 address) {
    Tally& counts = tally(address);
    std::uint16_t& more = counts.more[address & 0xff];
    if (more > 0) {
      --more;
      return;
    }
    counts.last[address & 0xff] = at(address).code();
    publish(address, AddressClass{});
  }

  std::size_t reader_octets() const { return used_ * 256 + directory_touched_; }
  std::size_t writer_octets() const { return used_ * sizeof(Tally); }

 private:
  static constexpr std::size_t kDirectory = std::size_t{1} << 24;
  static constexpr std::uint32_t kPerChunk = 8192;  // 2 MB of codes
  static constexpr std::size_t kChunks = kDirectory / kPerChunk + 1;

  std::atomic_ref<std::uint32_t> entry(Ipv4 address) const {
    return std::atomic_ref<std::uint32_t>(directory_.as<std::uint32_t>()[address >> 8]);
  }
  static std::size_t code_index(std::uint32_t block, Ipv4 address) {
    return std::size_t{block % kPerChunk} * 256 + (address & 0xff);
  }

  // Block 0 is the one of all /24s that were never used, and stays empty.
  std::uint32_t add_block() {
    const std::uint32_t block = used_;
    if (block % kPerChunk == 0) {
      Pages codes(std::size_t{kPerChunk} * 256, Pages::Use::dense);
      home_.place(codes.range());
      tallies_[block / kPerChunk] = Pages(std::size_t{kPerChunk} * sizeof(Tally), Pages::Use::sparse);
      blocks_[block / kPerChunk].store(codes.as<std::uint8_t>(), std::memory_order_relaxed);
      codes_[block / kPerChunk] = std::move(codes);
    }
    ++used_;
    return block;
  }

  Tally& tally(Ipv4 address) {
    std::uint32_t block = entry(address).load(std::memory_order_relaxed);
    if (block == 0) {
      block = add_block();
      entry(address).store(block, std::memory_order_release);  // and with it the chunk's address
      directory_touched_ += sizeof(std::uint32_t);
    }
    return tallies_[block / kPerChunk].as<Tally>()[block % kPerChunk];
  }

  void publish(Ipv4 address, AddressClass given) {
    const std::uint32_t block = entry(address).load(std::memory_order_relaxed);
    std::uint8_t& code = codes_[block / kPerChunk].as<std::uint8_t>()[code_index(block, address)];
    std::atomic_ref<std::uint8_t>(code).store(given.code(), std::memory_order_release);
  }

  numa::Home& home_;
  Pages directory_;
  std::array<std::atomic<const std::uint8_t*>, kChunks> blocks_{};
  std::array<Pages, kChunks> codes_{};
  std::array<Pages, kChunks> tallies_{};
  std::uint32_t used_{};
  std::size_t directory_touched_{};
};

}  // namespace lw
