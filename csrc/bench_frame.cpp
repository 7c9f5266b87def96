#include "bench_frame.hpp"

#include "bench_fleet.hpp"
#include "checksum.hpp"

namespace lw::bench {

namespace {

constexpr std::uint16_t kPeerPort = 443;

void write_ipv6(std::uint8_t* at, std::uint16_t payload) {
  store32(at, 0x60000000);
  store16(at + ipv6::kPayloadLength, payload);
  at[ipv6::kNextHeader] = proto::kIpv4;
  at[ipv6::kHopLimit] = 64;
  store(at + ipv6::kDestination, fleet::br());
}

void write_ipv4(std::uint8_t* at, std::uint16_t length, bool tcp) {
  at[0] = 0x45;
  store16(at + ipv4::kTotalLength, length);
  store16(at + ipv4::kFragment, ipv4::kDontFragment);
  at[ipv4::kTtl] = 64;
  at[ipv4::kProtocol] = tcp ? proto::kTcp : proto::kUdp;
}

void write_transport(std::uint8_t* at, std::uint16_t length, bool tcp) {
  store16(at, kPeerPort);
  store16(at + 2, kPeerPort);
  if (tcp) {
    constexpr std::uint8_t kAck = 0x10;
    at[12] = FrameTemplate::kTcpHeader / 4 << 4;
    at[13] = kAck;
  } else {
    store16(at + 4, length);  // the checksum stays 0: none (RFC 768)
  }
}

}  // namespace

FrameTemplate::FrameTemplate(Direction direction, bool tcp, const Ends& ends, std::uint16_t wanted) : octets(wanted) {
  std::uint8_t* frame = headers.data();
  store(frame, ends.to);
  store(frame + 6, ends.from);
  store16(frame + 12, outer(direction) ? ether::kIpv6 : ether::kIpv4);
  const std::uint16_t at = inner_at(direction);
  const auto length = static_cast<std::uint16_t>(octets - at);
  if (outer(direction)) write_ipv6(frame + ether::kHeader, length);
  std::uint8_t* ip = frame + at;
  write_ipv4(ip, length, tcp);
  // A hairpinned packet has subscribers at both ends.
  if (direction != Direction::hairpin) {
    store32(ip + (outer(direction) ? ipv4::kDestination : ipv4::kSource), ends.host);
  }
  write_transport(ip + ipv4::kHeader, static_cast<std::uint16_t>(length - ipv4::kHeader), tcp);
  inner_sum = checksum::fold(checksum::sum(ip, ipv4::kHeader));
}

}  // namespace lw::bench
