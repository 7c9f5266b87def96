// Which packets of a burst are plain, and what is looked up for them.
#include <algorithm>
#include <array>
#include <bit>

#include "filter.hpp"
#include "plain.hpp"

namespace lw {

namespace {

constexpr std::uint64_t kMacMask = 0xffffffffffff;
// Type of the frame and first octet of the packet: a version, and for IPv4 a header without options.
constexpr std::uint32_t kIpv4Begins = 0x450008, kIpv4BeginsMask = 0xffffff;
constexpr std::uint32_t kIpv6Begins = 0x60dd86, kIpv6BeginsMask = 0xf0ffff;
constexpr std::uint16_t kPorts = 4;
constexpr std::uint16_t kPcpServerPort = 5351;  // RFC 6887 section 19.1

constexpr auto kMartianFirst = [] {
  std::array<bool, 256> first{};
  for (unsigned octet = 0; octet < first.size(); ++octet) first[octet] = octet == 0 || octet == 127 || octet >= 224;
  return first;
}();
// martian_source() and softwire_only() of an address as it lies in the packet.
bool never_forwarded(std::uint32_t raw) {
  return kMartianFirst[raw & 0xff] || (raw & Be32{0xfffffff8}.raw()) == Be32{0xc0000000}.raw();
}

// The first 24 octets of an IPv4 packet, in registers.
struct Head {
  std::uint64_t first;   // to the fragment field
  std::uint64_t second;  // TTL, protocol, checksum, source
  std::uint32_t destination;
  std::uint32_t ports;

  explicit Head(const std::uint8_t* ip)
      : first(load<std::uint64_t>(ip)),
        second(load<std::uint64_t>(ip + 8)),
        destination(load<std::uint32_t>(ip + ipv4::kDestination)),
        ports(load<std::uint32_t>(ip + ipv4::kHeader)) {}

  std::uint32_t total() const { return total_length(first); }
  std::uint8_t protocol() const { return static_cast<std::uint8_t>(second >> 8); }
  std::uint32_t source() const { return static_cast<std::uint32_t>(second >> 32); }
  std::uint32_t source_port() const { return byte_swap(ports) >> 16; }
  std::uint32_t destination_port() const { return byte_swap(ports) & 0xffff; }

  // A whole packet of `there` octets or fewer with ports, no options, and a good checksum.
  bool plain(std::uint32_t there) const {
    constexpr std::uint64_t kVersionAndFragment = 0xff3f0000000000ff;  // all but DF of the fragment field
    return (first & kVersionAndFragment) == 0x45 && (protocol() == proto::kTcp || protocol() == proto::kUdp) &&
           total() >= ipv4::kHeader + kPorts && total() <= there && good();
  }

 private:
  // The words of a one's complement sum may be as wide as a register: end-around carries all the way down.
  bool good() const {
    std::uint64_t sum = first;
    sum += static_cast<std::uint64_t>(__builtin_add_overflow(sum, second, &sum));
    sum += static_cast<std::uint64_t>(__builtin_add_overflow(sum, std::uint64_t{destination}, &sum));
    const auto half = static_cast<std::uint32_t>((sum + std::rotl(sum, 32)) >> 32);
    return (half + std::rotl(half, 16)) >> 16 == 0xffff;
  }
};

bool on_link(const std::uint8_t* octets, std::uint64_t mac, std::uint32_t tag, std::uint32_t tag_mask) {
  return (load<std::uint64_t>(octets) & kMacMask) == mac && (load<std::uint32_t>(octets + 12) & tag_mask) == tag;
}

}  // namespace

inline bool PlainWay::is_own(const Own& own, std::uint32_t raw) const {
  return raw == own.first4 || (own.more4 && is_own_ipv4(*settings_, byte_swap(raw)));
}

inline bool PlainWay::is_br(const Own& own, const Ipv6& address) const {
  return address == own.first_br ||
         (own.more_br && std::ranges::find(settings_->br_addresses, address) != settings_->br_addresses.end());
}

[[gnu::always_inline]] inline bool PlainWay::read4(const Context& ctx, const Link& link, const Own& own,
                                                   rte_mbuf* frame, unsigned k) {
  std::uint8_t* octets = packet::data(frame);
  std::uint8_t* ip = octets + link.header;
  if (frame->nb_segs != 1 || frame->data_len < link.header + ipv4::kHeader + kPorts) return false;
  if (!on_link(octets, link.mac, link.tag, link.tag_mask)) return false;
  if ((load<std::uint32_t>(ip - 2) & kIpv4BeginsMask) != kIpv4Begins) return false;
  const Head head(ip);
  if (!head.plain(frame->data_len - std::uint32_t{link.header})) return false;
  if (never_forwarded(head.source()) || is_own(own, head.destination)) return false;
  // What is bound is no martian: the table takes none.
  const Ipv4 destination = byte_swap(head.destination);
  const std::int32_t psid = ctx.table.classify(destination).psid_or_none(head.destination_port());
  if (psid < 0) return false;
  if (link.ingress != nullptr && !link.ingress->passes(frame)) [[unlikely]] {
    return false;
  }
  ctx.table.ask(first_, k, {destination, static_cast<std::uint16_t>(psid)});
  // Where the outer header will be: the card has not written there, so the line is far away.
  __builtin_prefetch(octets - ipv6::kHeader, 1);
  packets_[k] = {frame, ip};
  kinds_[k] = kEncap;
  return true;
}

[[gnu::always_inline]] inline bool PlainWay::read6(const Context& ctx, const Link& link, const Own& own,
                                                   rte_mbuf* frame, unsigned k) {
  std::uint8_t* octets = packet::data(frame);
  std::uint8_t* outer = octets + link.header;
  std::uint8_t* ip = outer + ipv6::kHeader;
  if (frame->nb_segs != 1 || frame->data_len < link.header + ipv6::kHeader + ipv4::kHeader + kPorts) return false;
  if (!on_link(octets, link.mac, link.tag, link.tag_mask)) return false;
  if ((load<std::uint32_t>(outer - 2) & kIpv6BeginsMask) != kIpv6Begins) return false;
  const auto lengths = load<std::uint64_t>(outer);
  const std::uint32_t payload = byte_swap(static_cast<std::uint32_t>(lengths >> 32)) >> 16;
  if ((lengths >> 48 & 0xff) != proto::kIpv4 || link.header + ipv6::kHeader + payload > frame->data_len) return false;
  if (!is_br(own, ipv6::destination(outer))) return false;
  const Head head(ip);
  if (!head.plain(payload)) return false;
  if (never_forwarded(head.destination) || is_own(own, head.destination)) return false;
  if (head.destination_port() == kPcpServerPort && settings_->pcp) return false;
  const Ipv4 source = byte_swap(head.source()), destination = byte_swap(head.destination);
  const std::int32_t psid = ctx.table.classify(source).psid_or_none(head.source_port());
  if (psid < 0) return false;
  if (link.ingress != nullptr && !link.ingress->passes(frame)) [[unlikely]] {
    return false;
  }
  std::uint8_t kind = kDecap;
  const AddressClass onward = ctx.table.classify(destination);
  if (onward.use() != AddressUse::none && settings_->hairpin != Hairpin::external) {
    const std::int32_t second = onward.psid_or_none(head.destination_port());
    if (second < 0 || settings_->hairpin == Hairpin::drop) return false;
    kind = static_cast<std::uint8_t>(kHairpin + onward_);
    ctx.table.ask(second_, onward_++, {destination, static_cast<std::uint16_t>(second)});
  }
  ctx.table.ask(first_, k, {source, static_cast<std::uint16_t>(psid)});
  packets_[k] = {frame, ip};
  kinds_[k] = kind;
  return true;
}

// One loop for each role: on a stick alone a frame may be of either side.
std::uint64_t PlainWay::read(const Context& ctx, PortRole role, rte_mbuf* const* frames, unsigned n) {
  const Link v4 = v4_, v6 = v6_;  // copies: nothing that is stored below can change them
  const Own own = own_;
  std::uint64_t plain = 0;
  unsigned k = 0;
  onward_ = 0;
  ctx.table.begin(first_);
  ctx.table.begin(second_);
  const auto each = [&](auto is_plain) {
    for (unsigned i = 0; i < n; ++i) {
      if (!is_plain(frames[i])) continue;
      ++k;
      plain |= std::uint64_t{1} << i;
    }
  };
  if (role == PortRole::v4) {
    if (v4.usable) each([&](rte_mbuf* frame) { return read4(ctx, v4, own, frame, k); });
  } else if (role == PortRole::v6) {
    if (v6.usable) each([&](rte_mbuf* frame) { return read6(ctx, v6, own, frame, k); });
  } else if (v4.usable && v6.usable) {
    each([&](rte_mbuf* frame) { return read4(ctx, v4, own, frame, k) || read6(ctx, v6, own, frame, k); });
  }
  n_ = k;
  return plain;
}

void PlainWay::locate(const Context& ctx) {
  ctx.table.locate(first_, n_);
  if (onward_ > 0) ctx.table.locate(second_, onward_);
  if (ctx.accounts == nullptr) [[likely]]
    return;
  ctx.accounts->find_bulk(first_.keys(), n_, accounts_.data());
  for (unsigned k = 0; k < n_; ++k) __builtin_prefetch(&ctx.book[accounts_[k]], 1);
  if (onward_ > 0) ctx.accounts->find_bulk(second_.keys(), onward_, onward_accounts_.data());
}

}  // namespace lw
