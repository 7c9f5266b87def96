#include "bench_traffic.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "checksum.hpp"
#include "headers.hpp"
#include "packet.hpp"

namespace lw::bench {

namespace {

constexpr Mac kFrom{{0x02, 0, 0, 0, 0, 0x99}};

}  // namespace

// 64 octets towards a B4 and 94 from one are what the peers were measured with: the least Ethernet frame, and the least
// that has a TCP header inside.
std::uint16_t Traffic::least(Direction direction) { return direction == Direction::encap ? 64 : FrameTemplate::kMost; }

Traffic::Traffic(const Plan& plan)
    : plan_(plan),
      headers_(static_cast<std::uint16_t>(inner_at(plan.direction) + ipv4::kHeader +
                                          (plan.tcp ? FrameTemplate::kTcpHeader : FrameTemplate::kUdpHeader))),
      random_(plan.seed),
      count_(plan.bindings) {
  if (plan.bindings == 0 || plan.bindings > fleet::kMost) throw std::invalid_argument("bindings: 1 to 2^28");
  if (plan.octets.empty()) throw std::invalid_argument("frame sizes: one is needed at least");
  for (const std::uint16_t octets : plan.octets) {
    if (octets < least(plan.direction)) throw std::invalid_argument("frame size: too small for the headers");
    templates_.emplace_back(plan.direction, plan.tcp, FrameTemplate::Ends{plan.to, kFrom, kInternet}, octets);
  }
}

void Traffic::choose(std::uint64_t first, std::uint64_t count) {
  first_ = static_cast<std::uint32_t>(std::min<std::uint64_t>(first, plan_.bindings - 1));
  const std::uint32_t rest = plan_.bindings - first_;
  count_ = count == 0 ? rest : static_cast<std::uint32_t>(std::min<std::uint64_t>(count, rest));
}

void Traffic::write(rte_mbuf* frame, const FrameTemplate& from) {
  frame->data_len = from.octets;
  frame->pkt_len = from.octets;
  std::uint8_t* octets = packet::data(frame);
  std::memcpy(octets, from.headers.data(), headers_);
  const std::uint64_t random = random_.next();
  const std::uint32_t number = first_ + Random::below(random, count_);
  const Be32 address{fleet::address(number)};
  const Be16 port{fleet::port(number, static_cast<std::uint32_t>(random))};
  std::uint8_t* ip = octets + inner_at(plan_.direction);
  std::uint64_t sum = from.inner_sum + put_subscriber(octets, plan_.direction, address, port, fleet::b4(number));
  if (plan_.direction == Direction::hairpin) {
    const std::uint64_t again = random_.next();
    const std::uint32_t other = first_ + Random::below(again, count_);
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
