// Which packets of a burst are plain, and what is looked up for them.
#include <algorithm>
#include <array>
#include <bit>

#include "filter.hpp"
#include "plain.hpp"

namespace lw {

namespace {

constexpr std::uint32_t kLeast = ipv4::kHeader + 4;  // with ports
constexpr std::uint16_t kPcpServerPort = 5351;       // RFC 6887 section 19.1

constexpr auto kMartianFirst = [] {
  std::array<bool, 256> first{};
  for (unsigned octet = 0; octet < first.size(); ++octet) first[octet] = octet == 0 || octet == 127 || octet >= 224;
  return first;
}();
// martian_source() and softwire_only() of an address as it lies in the packet.
bool never_forwarded(std::uint32_t raw) {
  return kMartianFirst[raw & 0xff] || (raw & Be32{0xfffffff8}.raw()) == Be32{0xc0000000}.raw();
}

// As a table: which of the two it is, nothing foretells.
constexpr auto kTcpOrUdp = [] {
  std::array<bool, 256> either{};
  either[proto::kTcp] = either[proto::kUdp] = true;
  return either;
}();

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

  // A packet with ports, at most `room` octets longer than the least of its kind, with a good checksum.
  bool plain(std::uint32_t room) const { return total() - kLeast <= room && kTcpOrUdp[protocol()] && good(); }

 private:
  // The words of a one's complement sum may be as wide as a register: end-around carries all the way down.
  bool good() const {
    std::uint64_t sum = first;
    sum += static_cast<std::uint64_t>(__builtin_add_overflow(sum, second, &sum));
    sum += static_cast<std::uint64_t>(__builtin_add_overflow(sum, std::uint64_t{destination}, &sum));
    const auto half = static_cast<std::uint32_t>((sum + std::rotl(sum, 32)) >> 32);
    return half + std::rotl(half, 16) >= 0xffff0000;
  }
};

}  // namespace

// What is looked at where there is more than one address, or a filter.
[[gnu::noinline]] bool PlainWay::further(const Link& link, const Own& own, rte_mbuf* frame,
                                         const std::uint8_t* ip) const {
  if (own.more4 && is_own_ipv4(*settings_, ipv4::destination(ip))) return false;
  if (own.more_br && &link == &v6_) {
    const Ipv6 to = ipv6::destination(ip - ipv6::kHeader);
    if (std::ranges::find(settings_->br_addresses, to) == settings_->br_addresses.end()) return false;
  }
  return link.ingress == nullptr || link.ingress->passes(frame);
}

[[gnu::always_inline]] inline bool PlainWay::read4(const BindingTable& table, const Link& link, const Own& own,
                                                   rte_mbuf* frame, unsigned k) {
  const int room = frame->data_len - static_cast<int>(link.header + kLeast);
  if (frame->nb_segs != 1 || room < 0) return false;
  std::uint8_t* octets = packet::data(frame);
  if (!link.begin.fits(octets)) return false;
  std::uint8_t* ip = octets + link.header;
  const Head head(ip);
  if (!head.plain(static_cast<std::uint32_t>(room))) return false;
  if (never_forwarded(head.source()) || head.destination == own.first4) return false;
  // What is bound is no martian: the table takes none.
  const Ipv4 destination = byte_swap(head.destination);
  const std::int32_t psid = table.classify(destination).psid_or_none(head.destination_port());
  if (psid < 0) return false;
  if (link.further && !further(v4_, own, frame, ip)) [[unlikely]] {
    return false;
  }
  table.ask(first_, k, {destination, static_cast<std::uint16_t>(psid)});
  // Where the outer header will be: the card has not written there, so the line is far away.
  __builtin_prefetch(octets - ipv6::kHeader, 1);
  frames_[k] = frame;
  ips_[k] = ip;
  kinds_[k] = kEncap;
  return true;
}

[[gnu::always_inline]] inline bool PlainWay::read6(const BindingTable& table, const Link& link, const Own& own,
                                                   rte_mbuf* frame, unsigned k) {
  const int room = frame->data_len - static_cast<int>(link.header + ipv6::kHeader + kLeast);
  if (frame->nb_segs != 1 || room < 0) return false;
  std::uint8_t* octets = packet::data(frame);
  std::uint8_t* ip = octets + link.header + ipv6::kHeader;
  if (!link.begin.fits(octets) || !own.inside.fits(ip - sizeof(Ipv6))) return false;
  const std::uint8_t* outer = ip - ipv6::kHeader;
  const std::uint32_t payload = byte_swap(load<std::uint32_t>(outer + ipv6::kPayloadLength)) >> 16;
  if (payload - kLeast > static_cast<std::uint32_t>(room)) return false;
  const Head head(ip);
  if (!head.plain(payload - kLeast)) return false;
  if (never_forwarded(head.destination) || head.destination == own.first4) return false;
  if (head.destination_port() == kPcpServerPort && settings_->pcp) return false;
  const Ipv4 source = byte_swap(head.source()), destination = byte_swap(head.destination);
  const std::int32_t psid = table.classify(source).psid_or_none(head.source_port());
  if (psid < 0) return false;
  if (link.further && !further(v6_, own, frame, ip)) [[unlikely]] {
    return false;
  }
  std::uint8_t kind = kDecap;
  if (table.near(destination)) {
    const AddressClass onward = table.classify(destination);
    if (onward.use() != AddressUse::none && settings_->hairpin != Hairpin::external) {
      const std::int32_t second = onward.psid_or_none(head.destination_port());
      if (second < 0 || settings_->hairpin == Hairpin::drop) return false;
      kind = static_cast<std::uint8_t>(kHairpin + onward_);
      table.ask(second_, onward_++, {destination, static_cast<std::uint16_t>(second)});
    }
  }
  table.ask(first_, k, {source, static_cast<std::uint16_t>(psid)});
  frames_[k] = frame;
  ips_[k] = ip;
  kinds_[k] = kind;
  return true;
}

// One loop for each role: on a stick alone a frame may be of either side.
std::uint64_t PlainWay::read(const Context& ctx, PortRole role, rte_mbuf* const* frames, unsigned n) {
  const Link v4 = v4_, v6 = v6_;  // copies: nothing that is stored below can change them
  const Own own = own_;
  const BindingTable& table = ctx.table;
  n_ = onward_ = 0;
  table.begin(first_);
  table.begin(second_);
  const auto each = [&](auto is_plain) {
    std::uint64_t others = 0;
    unsigned k = 0;
    for (unsigned i = 0; i < n; ++i) {
      if (is_plain(frames[i], k)) [[likely]] {
        ++k;
      } else {
        others |= std::uint64_t{1} << i;
      }
    }
    n_ = k;
    return ~others & Lane::all_of(n);
  };
  if (role == PortRole::v4) {
    if (v4.usable) return each([&](rte_mbuf* frame, unsigned k) { return read4(table, v4, own, frame, k); });
  } else if (role == PortRole::v6) {
    if (v6.usable) return each([&](rte_mbuf* frame, unsigned k) { return read6(table, v6, own, frame, k); });
  } else if (v4.usable && v6.usable) {
    return each([&](rte_mbuf* frame, unsigned k) {
      return read4(table, v4, own, frame, k) || read6(table, v6, own, frame, k);
    });
  }
  return 0;
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
