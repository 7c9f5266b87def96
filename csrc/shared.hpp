// What the lanes of one router have in common. Everything in it may be used by all of them at once.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "neighbor.hpp"
#include "path_mtu.hpp"
#include "rate_limit.hpp"
#include "settings.hpp"

namespace lw {

struct Shared {
  // `secret` keys the hashes that outsiders must not predict: flow labels, fragment identifications, source buckets.
  Shared(const Settings& settings, std::uint64_t secret_key) : secret(secret_key) {
    if (settings.v4.next_hop_mac) v4.fix(*settings.v4.next_hop_mac);
    if (settings.v6.next_hop_mac) v6.fix(*settings.v6.next_hop_mac);
  }

  const std::uint64_t secret;
  Neighbor v4;
  Neighbor v6;
  TokenBucket icmp4_errors;
  TokenBucket icmp6_errors;
  TokenBucket icmp4_incoming;
  TokenBucket mld_answers;
  SourceBuckets icmp4_sources;
  SourceBuckets icmp6_sources;
  TokenBucket pcp_requests;
  SourceBuckets pcp_sources;
  TokenBucket events;
  SourceTimes event_sources;
  PathMtus path_mtus;
  std::atomic<std::uint32_t> fragments_sent{};                    // numbers the datagrams that are fragmented outside
  std::array<std::atomic<std::uint64_t>, 16> conflict_seen_ns{};  // per own address, RFC 5227 section 2.4(c)
};

}  // namespace lw
