// The frames of the benchmarks: what all of one size have in common, and what the binding puts into each.
#pragma once

#include <array>
#include <cstdint>

#include "headers.hpp"
#include "types.hpp"

namespace lw::bench {

enum class Direction : std::uint8_t { encap, decap, hairpin };

inline constexpr Ipv4 kInternet = 0xc6336401;  // 198.51.100.1: the host that all talk to

constexpr bool outer(Direction direction) { return direction != Direction::encap; }
constexpr std::uint16_t inner_at(Direction direction) {
  return static_cast<std::uint16_t>(ether::kHeader + (outer(direction) ? ipv6::kHeader : 0));
}

struct FrameTemplate {
  static constexpr std::uint16_t kUdpHeader = 8, kTcpHeader = 20;
  static constexpr std::size_t kMost = ether::kHeader + ipv6::kHeader + ipv4::kHeader + kTcpHeader;

  struct Ends {
    Mac to;
    Mac from;
    Ipv4 host;  // on the internet: the host that all subscribers talk to
  };
  FrameTemplate(Direction direction, bool tcp, const Ends& ends, std::uint16_t octets);

  std::uint16_t octets;
  std::uint32_t inner_sum{};  // of the IPv4 header without the subscriber's address
  alignas(32) std::array<std::uint8_t, kMost> headers{};
};

// The subscriber's end of a frame: where it goes to from the internet, where it comes from out of a softwire. What is
// to be added to inner_sum.
inline std::uint64_t put_subscriber(std::uint8_t* frame, Direction direction, Be32 address, Be16 port, const Ipv6& b4) {
  std::uint8_t* ip = frame + inner_at(direction);
  if (direction == Direction::encap) {
    store(ip + ipv4::kDestination, address);
    store(ip + ipv4::kHeader + 2, port);
  } else {
    store(frame + ether::kHeader + ipv6::kSource, b4);
    store(ip + ipv4::kSource, address);
    store(ip + ipv4::kHeader, port);
  }
  return address.raw();
}

}  // namespace lw::bench
