#include "bench_stream.hpp"

#include <bit>
#include <cstring>
#include <stdexcept>

#include "bench_fleet.hpp"
#include "bench_judge.hpp"
#include "checksum.hpp"
#include "hash.hpp"
#include "port_set.hpp"

namespace lw::bench {

namespace {

constexpr std::uint16_t kHeaders = ipv4::kHeader + FrameTemplate::kUdpHeader;
constexpr std::uint32_t kMagic = 0x6c773436;  // "lw46"
constexpr std::uint16_t kDecap = 0x8000;      // of the trial's 16 bits
constexpr std::uint16_t kFirstPort = 1024;    // of those used on a whole address

void store48(std::uint8_t* to, std::uint64_t value) {
  store16(to, static_cast<std::uint16_t>(value >> 32));
  store32(to + 2, static_cast<std::uint32_t>(value));
}
std::uint64_t load48(const std::uint8_t* from) { return std::uint64_t{load16(from)} << 32 | load32(from + 2); }

// One of the set's ports; a whole address has all of them.
std::uint16_t port_of(const BindingRow& row, std::uint32_t random) {
  const PortSetParams set{row.psid_offset, row.psid_len};
  if (set.whole()) return static_cast<std::uint16_t>(kFirstPort + (random >> 16) * (0x10000 - kFirstPort) / 0x10000);
  const unsigned m = set.contiguous_bits();
  const std::uint32_t blocks = set.offset == 0 ? 1 : (std::uint32_t{1} << set.offset) - 1;
  const std::uint32_t block = (set.offset == 0 ? 0 : 1) + (random & 0xffff) * blocks / 0x10000;
  const std::uint32_t within = (random >> 16) & ((std::uint32_t{1} << m) - 1);
  const std::uint32_t high = set.offset == 0 ? 0 : block << (16 - set.offset);
  return static_cast<std::uint16_t>(high | std::uint32_t{row.psid} << m | within);
}

}  // namespace

std::uint16_t Stream::least(Direction direction) {
  return static_cast<std::uint16_t>(inner_at(direction) + kHeaders + Signature::kOctets);
}

Stream::Stream(const Plan& plan) : plan_(plan) {
  if (plan.direction == Direction::hairpin) throw std::invalid_argument("a stream is encap or decap");
  if (plan.rows == nullptr || plan.rows->empty()) throw std::invalid_argument("bindings: one is needed at least");
  if (plan.octets.empty()) throw std::invalid_argument("frame sizes: one is needed at least");
  if (plan.frames > Signature::kMost || plan.trial >= kDecap) throw std::invalid_argument("too many frames or trials");
  for (const std::uint16_t octets : plan.octets) {
    if (octets < least(plan.direction)) throw std::invalid_argument("frame size: too small for headers and signature");
    templates_.emplace_back(plan.direction, false, plan.ends, octets);
  }
}

// The n-th of a sequence like wyrand's (bench_fleet.hpp), another one for each trial and direction.
std::uint64_t Stream::random(std::uint64_t number) const {
  const std::uint64_t which = plan_.trial | (outer(plan_.direction) ? kDecap : 0);
  const std::uint64_t state = (number + (which << 48) + 1) * 0xa0761d6478bd642f;
  return hash::mix(state, state ^ 0xe7037ed1a0b428db);
}

std::uint32_t Stream::binding(std::uint64_t number) const {
  return Random::below(random(number), static_cast<std::uint32_t>(plan_.rows->size()));
}

Stream::Subscriber Stream::subscriber(std::uint64_t number) const {
  const std::uint32_t binding = this->binding(number);
  const BindingRow& row = (*plan_.rows)[binding];
  return {binding, row.ipv4, port_of(row, static_cast<std::uint32_t>(random(number))), std::bit_cast<Ipv6>(row.b4),
          std::bit_cast<Ipv6>(row.br)};
}

std::uint32_t Stream::write(std::uint64_t number, std::uint8_t* frame) const {
  const FrameTemplate& from = sized(number);
  const std::uint16_t at = inner_at(plan_.direction);
  std::memcpy(frame, from.headers.data(), at + kHeaders);
  const Subscriber to = subscriber(number);
  const std::uint64_t sum =
      from.inner_sum + put_subscriber(frame, plan_.direction, Be32{to.address}, Be16{to.port}, to.b4);
  if (outer(plan_.direction)) store(frame + ether::kHeader + ipv6::kDestination, to.br);
  store(frame + at + ipv4::kChecksum, checksum::field(sum));
  std::uint8_t* signature = frame + at + kHeaders;
  store32(signature, kMagic);
  store16(signature + 4, static_cast<std::uint16_t>(plan_.trial | (outer(plan_.direction) ? kDecap : 0)));
  store48(signature + 6, number);
  return to.binding;
}

void Stream::stamp(std::uint8_t* frame, std::uint64_t tsc) const {
  store48(frame + inner_at(plan_.direction) + kHeaders + 12, tsc & (Signature::kMost - 1));
}

bool read_signature(const std::uint8_t* inner, std::uint32_t length, Signature& found) {
  if (length < kHeaders + Signature::kOctets || inner[0] != 0x45 || inner[ipv4::kProtocol] != proto::kUdp) return false;
  const std::uint8_t* signature = inner + kHeaders;
  if (ipv4::is_fragment(inner) || load32(signature) != kMagic) return false;
  const std::uint16_t trial = load16(signature + 4);
  found = {static_cast<std::uint16_t>(trial & ~kDecap), (trial & kDecap) != 0 ? Direction::decap : Direction::encap,
           load48(signature + 6), load48(signature + 12)};
  return true;
}

}  // namespace lw::bench
