// Whose a frame is when software spreads frames over workers: by what all fragments of a packet have in common, and all
// packets of a subscriber in one direction.
#pragma once

#include <cstdint>

#include "hash.hpp"
#include "headers.hpp"

namespace lw {

class Spread {
 public:
  static constexpr unsigned kAnyone = ~0U;  // no such packet: who has it keeps it

  Spread(unsigned workers, std::uint64_t secret) : workers_(workers), secret_(secret) {}

  // `frame` from the Ethernet header on, as much of it as lies in one piece.
  unsigned owner(const std::uint8_t* frame, std::uint32_t octets, std::uint8_t subscriber_mask) const {
    std::uint32_t at = ether::kHeader;
    if (octets < at) return kAnyone;
    std::uint16_t type = load16(frame + at - 2);
    if (type == ether::kVlan) {
      at += ether::kTag;
      if (octets < at) return kAnyone;
      type = load16(frame + at - 2);
    }
    const std::uint8_t* ip = frame + at;
    if (type == ether::kIpv4 && octets >= at + ipv4::kHeader) {
      return of(std::uint64_t{ipv4::destination(ip)} << 32 | ipv4::source(ip));
    }
    if (type == ether::kIpv6 && octets >= at + ipv6::kHeader && !ipv6::destination(ip).is_multicast()) {
      return of(hash::subscriber(ipv6::source(ip), subscriber_mask));
    }
    return kAnyone;
  }

 private:
  // Mixed twice: once leaves what comes in a row in a row, so that with one secret in a hundred a few addresses are all
  // one worker's.
  unsigned of(std::uint64_t key) const {
    const std::uint64_t mixed = hash::mix(hash::mix(key, secret_), secret_);
    return static_cast<unsigned>((mixed >> 32) * workers_ >> 32);
  }

  unsigned workers_;
  std::uint64_t secret_;
};

}  // namespace lw
