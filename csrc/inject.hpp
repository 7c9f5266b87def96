// The control side's way to send: whole IPv6 packets, put into one lane's ring.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>

#include "punt_ring.hpp"

namespace lw {

class Inject {
 public:
  // `longest`: octets of an IPv6 packet that the IPv6 side takes in one piece.
  Inject(std::size_t octets, std::uint32_t longest) : ring_(octets), longest_(longest) {}

  InjectRing& ring() { return ring_; }
  // The packets lie one behind the other. Takes the first so many, in order, as the ring has room for. Throws
  // std::invalid_argument, and takes none, if one of them is no whole IPv6 packet or is too long.
  std::size_t send(std::span<const std::uint8_t> packets, std::span<const std::uint32_t> lengths);

 private:
  void check(std::span<const std::uint8_t> packets, std::span<const std::uint32_t> lengths) const;

  InjectRing ring_;
  const std::uint32_t longest_;
  std::mutex mutex_;  // one producer at a time
};

}  // namespace lw
