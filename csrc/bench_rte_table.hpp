// The same table as it would be on DPDK's rte_hash: positions of keys there, softwires in an array beside it.
#pragma once

#include <rte_errno.h>
#include <rte_hash.h>
#include <rte_hash_crc.h>
#include <rte_malloc.h>

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "binding_table.hpp"
#include "pages.hpp"

namespace lw::bench {

class RteTable {
 public:
  explicit RteTable(std::uint32_t bindings) {
    const std::size_t before = allocated();
    rte_hash_parameters parameters{};
    static std::atomic<unsigned> count{};
    const std::string name = "bench" + std::to_string(count.fetch_add(1));
    parameters.name = name.c_str();
    // Near its capacity rte_hash finds no place for some keys: it gets a quarter more, in its own favour.
    parameters.entries = bindings < kLeast ? kLeast : bindings + bindings / 4;
    parameters.key_len = sizeof(std::uint64_t);
    parameters.hash_func = rte_hash_crc;
    parameters.socket_id = SOCKET_ID_ANY;
    parameters.extra_flag = RTE_HASH_EXTRA_FLAGS_RW_CONCURRENCY_LF;
    hash_ = rte_hash_create(&parameters);
    if (hash_ == nullptr) throw std::runtime_error(std::string("rte_hash: ") + rte_strerror(rte_errno));
    values_ = Pages((std::size_t{parameters.entries} + 1) * sizeof(Ipv6), Pages::Use::dense);
    octets_ = allocated() - before + values_.octets();
  }
  ~RteTable() { rte_hash_free(hash_); }
  RteTable(const RteTable&) = delete;
  RteTable& operator=(const RteTable&) = delete;

  std::size_t octets() const { return octets_; }

  bool insert(BindingKey key, const Softwire& softwire) {
    const std::uint64_t word = packed(key);
    const std::int32_t at = rte_hash_add_key(hash_, &word);
    if (at < 0) return false;
    values_.as<Ipv6>()[at] = softwire.b4;
    br_ = softwire.br;
    return true;
  }

  // With lock-free readers the position stays taken until their grace period is over; here nobody reads.
  bool remove(BindingKey key) {
    const std::uint64_t word = packed(key);
    const std::int32_t at = rte_hash_del_key(hash_, &word);
    return at >= 0 && rte_hash_free_key_with_position(hash_, at) == 0;
  }

  std::uint64_t find_bulk(const BindingKey* keys, unsigned n, Softwire* out) const {
    std::array<std::uint64_t, RTE_HASH_LOOKUP_BULK_MAX> words;
    std::array<const void*, RTE_HASH_LOOKUP_BULK_MAX> pointers;
    std::array<std::int32_t, RTE_HASH_LOOKUP_BULK_MAX> positions;
    for (unsigned i = 0; i < n; ++i) {
      words[i] = packed(keys[i]);
      pointers[i] = &words[i];
    }
    rte_hash_lookup_bulk(hash_, pointers.data(), n, positions.data());
    const Ipv6* values = values_.as<Ipv6>();
    for (unsigned i = 0; i < n; ++i) __builtin_prefetch(&values[positions[i] < 0 ? 0 : positions[i]]);
    std::uint64_t found = 0;
    for (unsigned i = 0; i < n; ++i) {
      if (positions[i] < 0) continue;
      out[i] = {values[positions[i]], br_};
      found |= std::uint64_t{1} << i;
    }
    return found;
  }

 private:
  static constexpr std::uint32_t kLeast = 64;

  static std::uint64_t packed(BindingKey key) { return std::uint64_t{key.ipv4} << 16 | key.psid; }
  static std::size_t allocated() {
    std::size_t octets = 0;
    for (int socket = 0; socket < RTE_MAX_NUMA_NODES; ++socket) {
      rte_malloc_socket_stats stats{};
      if (rte_malloc_get_socket_stats(socket, &stats) == 0) octets += stats.heap_allocsz_bytes;
    }
    return octets;
  }

  rte_hash* hash_{};
  Pages values_;
  Ipv6 br_{};
  std::size_t octets_{};
};

}  // namespace lw::bench
