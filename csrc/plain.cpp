#include "plain.hpp"

#include <algorithm>
#include <bit>

#include "checksum.hpp"
#include "filter.hpp"

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

// Of the first eight octets. (A swap of 16 bits goes through memory where there is MOVBE.)
std::uint32_t total_length(std::uint64_t first) { return byte_swap(static_cast<std::uint32_t>(first)) & 0xffff; }

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

// Settings
// -------------------------------------------------------------------------------------------------------------

void PlainWay::use(const Settings& settings) {
  settings_ = &settings;
  const auto link_of = [](const Side& side) {
    Link link{.usable = !side.vlan || side.ingress_filter == nullptr,
              .header = ether::kHeader,
              .mac = 0,
              .tag = 0,
              .tag_mask = 0,
              .ingress = side.ingress_filter.get()};
    std::memcpy(&link.mac, &side.mac, sizeof side.mac);
    if (side.vlan) {
      link.header += ether::kTag;
      link.tag = Be32{std::uint32_t{ether::kVlan} << 16 | *side.vlan}.raw();
      link.tag_mask = Be32{0xffff0000U | ether::kVidMask}.raw();
    }
    return link;
  };
  v4_ = link_of(settings.v4);
  v6_ = link_of(settings.v6);
  own_ = {.first4 = settings.v4_addresses.empty() ? 0 : Be32{settings.v4_addresses.front().address}.raw(),
          .more4 = settings.v4_addresses.size() > 1,
          .first_br = settings.br_addresses.empty() ? Ipv6{} : settings.br_addresses.front(),
          .more_br = settings.br_addresses.size() > 1};
  outer_ = {.fixed = std::uint64_t{6} << 60 |
                     std::uint64_t{settings.encap_limit ? proto::kDestination : proto::kIpv4} << 8 | settings.hop_limit,
            .option = 0,
            .overhead = tunnel_overhead(settings),
            .class_and = static_cast<std::uint8_t>((settings.dscp == DscpMode::copy ? 0xfc : 0) |
                                                   (settings.ecn == EcnMode::normal ? 3 : 0)),
            .class_or = static_cast<std::uint8_t>(settings.dscp == DscpMode::pipe ? settings.pipe_dscp << 2 : 0),
            .hash = settings.flow_label_mode == FlowLabelMode::hash,
            .label = settings.flow_label};
  if (settings.encap_limit) outer_.option = load<std::uint64_t>(limit_option(*settings.encap_limit).data());
}

inline bool PlainWay::is_own(const Own& own, std::uint32_t raw) const {
  return raw == own.first4 || (own.more4 && is_own_ipv4(*settings_, byte_swap(raw)));
}

inline bool PlainWay::is_br(const Own& own, const Ipv6& address) const {
  return address == own.first_br ||
         (own.more_br && std::ranges::find(settings_->br_addresses, address) != settings_->br_addresses.end());
}

// Reading
// --------------------------------------------------------------------------------------------------------------

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

// Those that have just been queued for the way out, where no filter waits for them: their headers are still there.
void PlainWay::count_run(Context& ctx, unsigned first, unsigned last) const {
  for (unsigned k = first; k < last; ++k) {
    const std::uint16_t octets = ipv4::total_length(packets_[k].ip);
    const auto count = [&](BindingAccounts::Number number, Account::Way way) {
      if (number != 0) ctx.book[number].add(way, octets);
    };
    count(accounts_[k], kinds_[k] == kEncap ? Account::in : Account::out);
    if (kinds_[k] >= kHairpin) count(onward_accounts_[kinds_[k] - unsigned{kHairpin}], Account::in);
  }
}

// Acting
// ---------------------------------------------------------------------------------------------------------------

namespace {

using Half = std::array<std::uint64_t, 2>;

// A link header that ends at an address: its last 16 octets in one store, which may write two dead octets before it.
struct LinkEnd {
  bool resolved;
  std::uint8_t length;
  std::uint16_t before;  // the two first octets of a tagged header
  Half last;

  explicit LinkEnd(const Transmitter::Link& link) : resolved(link.resolved), length(link.length) {
    std::array<std::uint8_t, 32> octets{};
    std::memcpy(octets.data() + octets.size() - length, link.header.data(), length);
    before = load<std::uint16_t>(octets.data() + 14);
    last = load<Half>(octets.data() + 16);
  }
  std::uint8_t* write(std::uint8_t* end) const {
    store(end - 16, last);
    if (length > 16) store(end - 18, before);
    return end - length;
  }
};

// RFC 1624 for a TTL that goes down by one: ~m + m' is 0xfffe whatever the word, for the TTL is its low octet.
std::uint64_t less_ttl(std::uint64_t second) {
  const auto check = static_cast<std::uint16_t>(second >> 16);
  std::uint32_t sum = std::uint32_t{static_cast<std::uint16_t>(~check)} + 0xfffe;
  sum = (sum & 0xffff) + (sum >> 16);
  const std::uint64_t mended = static_cast<std::uint16_t>(~sum);
  return ((second - 1) & ~std::uint64_t{0xffff0000}) | mended << 16;
}

}  // namespace

// Packets that leave by one side, one behind the other.
struct PlainWay::Run {
  [[gnu::always_inline]] Run(const PlainWay& plain_way, Context& context, SideId out, unsigned most)
      : way(plain_way),
        ctx(context),
        settings(*plain_way.settings_),
        outer(plain_way.outer_),
        to(context.out.link(out)),
        side(out),
        egress((out == SideId::v4 ? settings.v4 : settings.v6).egress_filter.get()),
        clamp(settings.tcp_mss != 0) {
    if (ctx.out.queue(side).n + most > Transmitter::kQueue) flush(ctx);
    auto& queue = ctx.out.queue(side);
    start = next = queue.frames.data() + queue.n;
  }
  [[gnu::always_inline]] void end(unsigned taken, Counter rx, Counter rx_bytes, Counter edge) {
    auto& queue = ctx.out.queue(side);
    queue.n = static_cast<std::uint16_t>(queue.n + (next - start));
    queue.octets += octets_out;
    ctx.count(rx, taken);
    ctx.count(rx_bytes, octets_in);
    ctx.count(edge, static_cast<std::uint64_t>(next - start));
  }

  // The IPv4 header of a packet that goes on: TTL, TOS, MSS.
  [[gnu::always_inline]] void rewrite(std::uint8_t* ip, std::uint64_t second, std::uint8_t tos) {
    store(ip + ipv4::kTtl, less_ttl(second));
    if (ip[ipv4::kTos] != tos) [[unlikely]] {
      rewrite_ttl_tos(ip, ip[ipv4::kTtl], tos);
    }
    if (clamp) [[unlikely]] {
      clamp_mss(ctx, ip, std::min<std::uint32_t>(ipv4::total_length(ip), packet::kWindow));
    }
  }

  // False: nothing was done.
  [[gnu::always_inline]] bool wrap(const Packet& packet, const BindingTable::Found& found, std::uint64_t first,
                                   std::uint8_t tos) {
    std::uint8_t* ip = packet.ip;
    const auto second = load<std::uint64_t>(ip + ipv4::kTtl);
    const std::uint32_t length = total_length(first) + outer.overhead;
    if ((second & 0xff) <= 1) return false;
    if (length > ipv6::kMinimumMtu) {
      const Ipv6 copy = found.b4;  // its address is given away: `found` can stay in registers
      if (length > path_mtu(ctx, copy)) return false;
    }
    const std::uint64_t begin = begin_outer(ip, second, tos, length);
    rewrite(ip, second, tos);
    std::uint8_t* at = ip - outer.overhead;
    if (outer.option != 0) store(ip - sizeof outer.option, outer.option);
    store(at, begin);
    store(at + ipv6::kSource, *found.br);
    store(at + ipv6::kDestination, found.b4);
    leave(packet.frame, to.write(at), length + to.length);
    return true;
  }

  [[gnu::always_inline]] bool unwrap(const Packet& packet, std::uint64_t first, std::uint8_t tos) {
    const auto second = load<std::uint64_t>(packet.ip + ipv4::kTtl);
    const std::uint32_t length = total_length(first);
    if ((second & 0xff) <= 1 || length > settings.v4.mtu) return false;
    rewrite(packet.ip, second, tos);
    leave(packet.frame, to.write(packet.ip), length + to.length);
    return true;
  }

  // The first eight octets of the outer header.
  [[gnu::always_inline]] std::uint64_t begin_outer(const std::uint8_t* ip, std::uint64_t second, std::uint8_t tos,
                                                   std::uint32_t length) const {
    std::uint32_t label = outer.label;
    if (outer.hash) {
      const std::uint64_t rest = (second >> 8 & 0xff) | std::uint64_t{load<std::uint32_t>(ip + ipv4::kHeader)} << 8;
      label = flow_label_of(ctx.shared.secret, load<std::uint64_t>(ip + ipv4::kSource), rest);
    }
    const std::uint64_t traffic_class = (tos & outer.class_and) | outer.class_or;
    const std::uint64_t payload = length - ipv6::kHeader;
    return byte_swap(outer.fixed | traffic_class << 52 | std::uint64_t{label} << 32 | payload << 16);
  }

  [[gnu::always_inline]] void leave(rte_mbuf* frame, const std::uint8_t* begins, std::uint32_t octets) {
    octets_in += frame->pkt_len;
    frame->data_off = static_cast<std::uint16_t>(begins - static_cast<const std::uint8_t*>(frame->buf_addr));
    frame->data_len = static_cast<std::uint16_t>(octets);
    frame->pkt_len = octets;
    if (egress != nullptr && !passes_untagged(*egress, frame)) [[unlikely]] {
      ctx.count(Counter::drop_filter_out);
      return rte_pktmbuf_free(frame);
    }
    octets_out += octets;
    *next++ = frame;
  }

  const PlainWay& way;
  Context& ctx;
  const Settings& settings;
  const Outer outer;
  const LinkEnd to;
  const SideId side;
  const Filter* const egress;
  const bool clamp;
  rte_mbuf** start{};
  rte_mbuf** next{};
  std::uint64_t octets_in{};
  std::uint32_t octets_out{};
};

unsigned PlainWay::encap(Context& ctx, const unsigned from, unsigned last) {
  Run run(*this, ctx, SideId::v6, last - from);
  if (!run.to.resolved) return from;
  unsigned k = from;
  for (; k < last && kinds_[k] == kEncap; ++k) {
    const Packet packet = packets_[k];
    BindingTable::Found found;
    if (!ctx.table.take(first_, k, found)) break;
    const auto first = load<std::uint64_t>(packet.ip);
    if (!run.wrap(packet, found, first, static_cast<std::uint8_t>(first >> 8))) break;
  }
  run.end(k - from, Counter::rx_v4, Counter::rx_v4_bytes, Counter::encap);
  return k;
}

// Whether the binding vouches for a packet from a softwire; then tos is what the IPv4 packet goes on with.
[[gnu::always_inline]] inline bool PlainWay::vouched(const Context& ctx, unsigned k, std::uint64_t first,
                                                     std::uint8_t& tos) const {
  BindingTable::Found found;
  if (!ctx.table.take(first_, k, found)) return false;
  const std::uint8_t* outer = packets_[k].ip - ipv6::kHeader;
  if (ipv6::source(outer) != found.b4 || ipv6::destination(outer) != *found.br) return false;
  // Equal marks combine to themselves and are suspicious in no cell (RFC 6040 figure 4).
  const auto inside = static_cast<std::uint8_t>(first >> 8);
  const std::uint8_t outside = ipv6::traffic_class(outer);
  tos = settings_->dscp == DscpMode::pipe ? inside : outside;
  return ((outside ^ inside) & 3) == 0;
}

unsigned PlainWay::decap(Context& ctx, const unsigned from, unsigned last) {
  Run run(*this, ctx, SideId::v4, last - from);
  if (!run.to.resolved) return from;
  unsigned k = from;
  for (; k < last && kinds_[k] == kDecap; ++k) {
    const auto first = load<std::uint64_t>(packets_[k].ip);
    std::uint8_t tos;
    if (!vouched(ctx, k, first, tos) || !run.unwrap(packets_[k], first, tos)) break;
  }
  run.end(k - from, Counter::rx_v6, Counter::rx_v6_bytes, Counter::decap);
  return k;
}

unsigned PlainWay::hairpin(Context& ctx, const unsigned from, unsigned last) {
  Run run(*this, ctx, SideId::v6, last - from);
  if (!run.to.resolved) return from;
  unsigned k = from;
  for (; k < last && kinds_[k] >= kHairpin; ++k) {
    const auto first = load<std::uint64_t>(packets_[k].ip);
    std::uint8_t tos;
    BindingTable::Found onward;
    if (!vouched(ctx, k, first, tos) || !ctx.table.take(second_, kinds_[k] - unsigned{kHairpin}, onward)) break;
    if (!run.wrap(packets_[k], onward, first, tos)) break;
  }
  run.end(k - from, Counter::rx_v6, Counter::rx_v6_bytes, Counter::hairpin);
  // Of those that no filter refused, less what was put before them.
  const auto queued = static_cast<std::uint32_t>(run.next - run.start);
  ctx.count(Counter::hairpin_bytes, run.octets_out - queued * (std::uint32_t{run.outer.overhead} + run.to.length));
  return k;
}

unsigned PlainWay::act(Context& ctx, unsigned first, unsigned last) {
  unsigned k = first;
  while (k < last) {
    const std::uint8_t kind = kinds_[k];
    const unsigned done = kind == kEncap   ? encap(ctx, k, last)
                          : kind == kDecap ? decap(ctx, k, last)
                                           : hairpin(ctx, k, last);
    if (done == k) break;
    if (ctx.book != nullptr) [[unlikely]] {
      count_run(ctx, k, done);
    }
    k = done;
  }
  return k;
}

}  // namespace lw
