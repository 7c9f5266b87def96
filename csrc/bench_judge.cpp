#include "bench_judge.hpp"

#include <algorithm>

#include "checksum.hpp"

namespace lw::bench {

namespace {

constexpr std::uint8_t kRouterSolicitation = 133, kRedirect = 137;

// What a frame carries, as far as it matters here.
struct Read {
  Judge::Kind kind{Judge::Kind::other};
  bool icmp_error{};
  std::uint16_t inner{};  // where its IPv4 header is; 0 = it has none
};

Read read(const std::uint8_t* frame, std::uint32_t length) {
  if (length < ether::kHeader) return {};
  const std::uint16_t type = load16(frame + 12);
  if (type == ether::kArp) return {.kind = Judge::Kind::neighbour};
  std::uint16_t inner = ether::kHeader;
  if (type == ether::kIpv6) {
    inner = ether::kHeader + ipv6::kHeader;
    if (length < inner + 8U) return {};
    const std::uint8_t next = frame[ether::kHeader + ipv6::kNextHeader];
    if (next == proto::kIcmp6) {
      const std::uint8_t message = frame[inner];
      if (message >= kRouterSolicitation && message <= kRedirect) return {.kind = Judge::Kind::neighbour};
      return {.icmp_error = message < icmp6::kEchoRequest};
    }
    if (next != proto::kIpv4) return {};
  } else if (type != ether::kIpv4) {
    return {};
  }
  if (length < inner + std::uint32_t{ipv4::kHeader}) return {};
  const std::uint8_t* ip = frame + inner;
  if (ip[ipv4::kProtocol] == proto::kIcmp) {
    const std::uint32_t at = inner + ipv4::header_length(ip);
    return {.icmp_error = at < length && icmp4::is_error(frame[at])};
  }
  return {.kind = Judge::Kind::test, .inner = inner};
}

}  // namespace

Judge::Judge(SideId side, std::uint16_t trial, const Stream* expected, const Tags& tags)
    : side_(side), trial_(trial), expected_(expected), tags_(tags) {
  if (expected == nullptr) return;
  seen_.resize(kWindow / 64);
  ledger_.by_binding.resize(expected->bindings());
  ledger_.delays.reserve(tags.most);
}

void Judge::prefetch(const std::uint8_t* frame, std::uint32_t length) const {
  Signature signature;
  const std::uint16_t at = inner_at(side_ == SideId::v6 ? Direction::decap : Direction::encap);
  if (expected_ == nullptr || length < at || !read_signature(frame + at, length - at, signature)) return;
  if (signature.number < expected_->frames()) expected_->prefetch(signature.number);
}

Judge::Kind Judge::see(const std::uint8_t* frame, std::uint32_t length, std::uint64_t tsc) {
  const Read found = read(frame, length);
  Signature signature;
  if (found.inner == 0 || !read_signature(frame + found.inner, length - found.inner, signature)) {
    if (found.kind == Kind::neighbour) return Kind::neighbour;
    ++(found.icmp_error ? ledger_.icmp_errors : ledger_.other);
    return Kind::other;
  }
  if (signature.trial != trial_) {
    ++ledger_.late;
  } else if (expected_ == nullptr || signature.direction != expected_->direction()) {
    ++ledger_.misdirected;
  } else {
    count(signature, frame, length, found.inner, tsc);
  }
  return Kind::test;
}

void Judge::count(const Signature& signature, const std::uint8_t* frame, std::uint32_t length, std::uint16_t at,
                  std::uint64_t tsc) {
  std::uint32_t binding = 0;
  if (!fits(signature, frame, length, at, binding)) return;
  if (!fresh(signature.number)) return;
  if (ledger_.right++ == 0) ledger_.first_tsc = tsc;
  ledger_.last_tsc = tsc;
  ++ledger_.by_binding[binding];
  if (signature.number >= tags_.from && (signature.number - tags_.from) % tags_.every == 0 &&
      ledger_.delays.size() < tags_.most) {
    ledger_.delays.push_back((tsc - signature.tsc) & (Signature::kMost - 1));
  }
}

bool Judge::fits(const Signature& signature, const std::uint8_t* frame, std::uint32_t length, std::uint16_t at,
                 std::uint32_t& binding) {
  const auto wrong = [this](Wrong what) {
    ++ledger_.wrong[static_cast<std::size_t>(what)];
    return false;
  };
  const bool encap = expected_->direction() == Direction::encap;
  if (signature.number >= expected_->frames()) return wrong(Wrong::number);
  // What was sent bare comes wrapped, and the other way round.
  if (at != inner_at(encap ? Direction::decap : Direction::encap)) return wrong(Wrong::link);
  const Stream::Subscriber of = expected_->subscriber(signature.number);
  binding = of.binding;
  if (encap) {
    const std::uint8_t* outside = frame + ether::kHeader;
    if (ipv6::source(outside) != of.br) return wrong(Wrong::outer_source);
    if (ipv6::destination(outside) != of.b4) return wrong(Wrong::outer_destination);
  }
  const std::uint8_t* ip = frame + at;
  const Ipv4 source = encap ? expected_->host() : of.address, destination = encap ? of.address : expected_->host();
  if (ipv4::source(ip) != source || ipv4::destination(ip) != destination) return wrong(Wrong::inner_addresses);
  if (load16(ip + ipv4::kHeader + (encap ? 2 : 0)) != of.port) return wrong(Wrong::ports);
  const std::uint32_t sent = expected_->octets(signature.number) - inner_at(expected_->direction());
  const bool whole = ipv4::total_length(ip) == sent && length >= at + sent;
  if (!whole || (encap && ipv6::payload_length(frame + ether::kHeader) != sent)) return wrong(Wrong::length);
  return checksum::good_ipv4_20(ip) || wrong(Wrong::checksum);
}

// False: this number has been there.
bool Judge::fresh(std::uint64_t number) {
  const auto bit = [this](std::uint64_t of) -> std::pair<std::uint64_t&, std::uint64_t> {
    return {seen_[of % kWindow / 64], std::uint64_t{1} << of % 64};
  };
  if (number >= next_) {
    // What the window moves over has not been seen. A jump beyond all of it clears each bit once.
    for (std::uint64_t of = number - std::min(number - next_, kWindow - 1); of < number; ++of) {
      const auto [word, mask] = bit(of);
      word &= ~mask;
    }
    next_ = number + 1;
    const auto [word, mask] = bit(number);
    word |= mask;
    return true;
  }
  if (next_ - number <= kWindow) {
    const auto [word, mask] = bit(number);
    if ((word & mask) != 0) {
      ++ledger_.duplicates;
      return false;
    }
    word |= mask;
  }
  ++ledger_.reordered;
  return true;
}

}  // namespace lw::bench
