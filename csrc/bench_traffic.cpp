#include "bench_traffic.hpp"

#include <cstring>
#include <stdexcept>

#include "checksum.hpp"
#include "headers.hpp"
#include "packet.hpp"

namespace lw::bench {

namespace {

constexpr Ipv4 kInternet = 0xc6336401;  // 198.51.100.1: the host that all talk to
constexpr Mac kFrom{{0x02, 0, 0, 0, 0, 0x99}};
constexpr std::uint16_t kUdpHeader = 8, kTcpHeader = 20, kPeerPort = 443;

constexpr bool outer(Direction direction) { return direction != Direction::encap; }
constexpr std::uint16_t inner_at(Direction direction) {
  return static_cast<std::uint16_t>(ether::kHeader + (outer(direction) ? ipv6::kHeader : 0));
}

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
    at[12] = kTcpHeader / 4 << 4;
    at[13] = kAck;
  } else {
    store16(at + 4, length);  // the checksum stays 0: none (RFC 768)
  }
}

}  // namespace

// 64 octets towards a B4 and 94 from one are what the peers were measured with: the least Ethernet frame, and the least
// that has a TCP header inside.
std::uint16_t Traffic::least(Direction direction) { return direction == Direction::encap ? 64 : kMost; }

Traffic::Traffic(const Plan& plan)
    : plan_(plan),
      headers_(
          static_cast<std::uint16_t>(inner_at(plan.direction) + ipv4::kHeader + (plan.tcp ? kTcpHeader : kUdpHeader))) {
  if (plan.bindings == 0 || plan.bindings > fleet::kMost) throw std::invalid_argument("bindings: 1 to 2^28");
  if (plan.octets.empty()) throw std::invalid_argument("frame sizes: one is needed at least");
  for (const std::uint16_t octets : plan.octets) {
    if (octets < least(plan.direction)) throw std::invalid_argument("frame size: too small for the headers");
    templates_.push_back(make(octets));
  }
}

Traffic::Template Traffic::make(std::uint16_t octets) const {
  Template made{.octets = octets, .inner_sum = 0, .headers = {}};
  std::uint8_t* frame = made.headers.data();
  store(frame, plan_.to);
  store(frame + 6, kFrom);
  store16(frame + 12, outer(plan_.direction) ? ether::kIpv6 : ether::kIpv4);
  const std::uint16_t at = inner_at(plan_.direction);
  const auto length = static_cast<std::uint16_t>(octets - at);
  if (outer(plan_.direction)) write_ipv6(frame + ether::kHeader, length);
  std::uint8_t* ip = frame + at;
  write_ipv4(ip, length, plan_.tcp);
  store32(ip + (outer(plan_.direction) ? ipv4::kDestination : ipv4::kSource), kInternet);
  write_transport(ip + ipv4::kHeader, static_cast<std::uint16_t>(length - ipv4::kHeader), plan_.tcp);
  made.inner_sum = checksum::fold(checksum::sum(ip, ipv4::kHeader));
  if (plan_.direction == Direction::hairpin) {
    store32(ip + ipv4::kDestination, 0);
    made.inner_sum = checksum::fold(checksum::sum(ip, ipv4::kHeader));
  }
  return made;
}

void Traffic::write(rte_mbuf* frame, const Template& from) {
  frame->data_len = from.octets;
  frame->pkt_len = from.octets;
  std::uint8_t* octets = packet::data(frame);
  std::memcpy(octets, from.headers.data(), headers_);
  const std::uint64_t random = random_.next();
  const std::uint32_t number = Random::below(random, plan_.bindings);
  const Be32 address{fleet::address(number)};
  const Be16 port{fleet::port(number, static_cast<std::uint32_t>(random))};
  std::uint8_t* ip = octets + inner_at(plan_.direction);
  std::uint64_t sum = from.inner_sum + std::uint64_t{address.raw()};
  if (plan_.direction == Direction::encap) {
    store(ip + ipv4::kDestination, address);
    store(ip + ipv4::kHeader + 2, port);
  } else {
    store(octets + ether::kHeader + ipv6::kSource, fleet::b4(number));
    store(ip + ipv4::kSource, address);
    store(ip + ipv4::kHeader, port);
  }
  if (plan_.direction == Direction::hairpin) {
    const std::uint64_t again = random_.next();
    const std::uint32_t other = Random::below(again, plan_.bindings);
    const Be32 to{fleet::address(other)};
    store(ip + ipv4::kDestination, to);
    store(ip + ipv4::kHeader + 2, Be16{fleet::port(other, static_cast<std::uint32_t>(again))});
    sum += to.raw();
  }
  store(ip + ipv4::kChecksum, checksum::field(sum));
}

void Traffic::write(rte_mbuf* const* frames, unsigned n) {
  if (templates_.size() == 1) {
    for (unsigned i = 0; i < n; ++i) write(frames[i], templates_.front());
    return;
  }
  for (unsigned i = 0; i < n; ++i) {
    write(frames[i], templates_[next_]);
    next_ = next_ + 1 == templates_.size() ? 0 : next_ + 1;
  }
}

}  // namespace lw::bench
