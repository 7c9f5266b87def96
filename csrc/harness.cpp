#include "harness.hpp"

#include <rte_mbuf.h>
#include <rte_mempool.h>

#include <atomic>
#include <stdexcept>
#include <string>

#include "checksum.hpp"
#include "headers.hpp"
#include "packet.hpp"
#include "settings_change.hpp"

namespace lw {

namespace {
constexpr std::uint16_t kDataRoom = 10240;  // a jumbo frame in one buffer, so that tests choose the segments
constexpr std::uint64_t kSecret = 0x5eed;   // results repeat from run to run
constexpr std::size_t kRing = 64 << 10;     // tests fill it

rte_mempool* make_pool(std::uint32_t mbufs) {
  static std::atomic<unsigned> number{};
  const std::string name = "harness" + std::to_string(number.fetch_add(1));
  rte_mempool* pool = rte_pktmbuf_pool_create(name.c_str(), mbufs, 0, packet::kPrivate,
                                              kDataRoom + RTE_PKTMBUF_HEADROOM, SOCKET_ID_ANY);
  if (pool == nullptr)
    throw std::runtime_error("no memory for the packet buffers of a test lane: give EAL more with -m");
  return pool;
}
// What a frame left to the device. It works on what the frame says of itself, right or wrong, and like many devices it
// sums up what it finds in the field.
void complete(const rte_mbuf& frame, std::vector<std::uint8_t>& octets) {
  if ((frame.ol_flags & RTE_MBUF_F_TX_IP_CKSUM) == 0) return;
  if (std::size_t{frame.l2_len} + frame.l3_len > octets.size() || frame.l3_len < ipv4::kHeader) return;
  std::uint8_t* ip = octets.data() + frame.l2_len;
  store(ip + ipv4::kChecksum, checksum::field(checksum::sum(ip, frame.l3_len)));
}

}  // namespace

void Harness::PoolFree::operator()(rte_mempool* pool) const { rte_mempool_free(pool); }

Harness::Harness(Settings settings, const BindingTable& table, std::uint32_t mbufs, Offloads offloads)
    : offloads_(offloads),
      settings_(std::make_unique<const Settings>(std::move(settings))),
      punt_(1, kRing),
      inject_(kRing, settings_->v6.mtu),
      shared_(*settings_, kSecret),
      pool_(make_pool(mbufs)) {
  const TxOffloads port = offloads == Offloads::none ? TxOffloads{} : TxOffloads{true, TxOffloads::kAnySegments};
  lane_ = std::make_unique<Lane>(Lane::Parts{0,
                                             *settings_,
                                             table,
                                             shared_,
                                             pool_.get(),
                                             *this,
                                             counters_,
                                             mbufs / 4,
                                             &punt_.ring(0),
                                             &inject_.ring(),
                                             {port, port}});
}

Harness::~Harness() { lane_.reset(); }

rte_mbuf* Harness::frame_of(Octets octets, std::span<const std::uint32_t> segments) {
  rte_mbuf* head = nullptr;
  std::size_t at = 0;
  for (std::size_t i = 0; head == nullptr || at < octets.size(); ++i) {
    const std::size_t left = octets.size() - at;
    const std::size_t n = std::min({i < segments.size() ? segments[i] : left, left, std::size_t{kDataRoom}});
    rte_mbuf* segment = rte_pktmbuf_alloc(pool_.get());
    if (segment == nullptr) throw std::runtime_error("the test lane has no packet buffer left");
    char* room = rte_pktmbuf_append(segment, static_cast<std::uint16_t>(n));
    std::memcpy(room, octets.data() + at, n);
    at += n;
    if (head == nullptr) {
      head = segment;
    } else {
      packet::append(head, segment);
    }
  }
  judge(head);
  return head;
}

// As a device does: the verdict is on the outermost IPv4 header, and on IPv6, which has no checksum, it is good.
void Harness::judge(rte_mbuf* frame) const {
  if (offloads_ == Offloads::none || packet::length(frame) < ether::kHeader + ether::kTag + ipv4::kHeader) return;
  std::uint8_t octets[ether::kHeader + ether::kTag + 60];
  const std::uint32_t there = std::min<std::uint32_t>(sizeof octets, packet::length(frame));
  packet::copy_out(frame, 0, octets, there);
  const std::uint16_t link = load16(octets + 12) == ether::kVlan ? ether::kHeader + ether::kTag : ether::kHeader;
  const std::uint16_t type = load16(octets + link - 2);
  if (type == ether::kIpv6) frame->ol_flags |= RTE_MBUF_F_RX_IP_CKSUM_GOOD;
  if (type != ether::kIpv4) return;
  const std::uint16_t header = ipv4::header_length(octets + link);
  const bool good = link + header <= there && checksum::good(checksum::sum(octets + link, header));
  const std::uint32_t field = link + ipv4::kChecksum;
  if (offloads_ == Offloads::open && good && header >= ipv4::kHeader && frame->data_len >= field + 2U) {
    store16(packet::data(frame, field), 0);
    frame->ol_flags |= RTE_MBUF_F_RX_IP_CKSUM_NONE;
    return;
  }
  frame->ol_flags |= good ? RTE_MBUF_F_RX_IP_CKSUM_GOOD : RTE_MBUF_F_RX_IP_CKSUM_BAD;
}

void Harness::feed(SideId side, std::span<const Octets> frames, std::span<const std::uint32_t> segments) {
  if (frames.size() > Lane::kBurst) throw std::invalid_argument("a burst has at most 64 frames");
  rte_mbuf* burst[Lane::kBurst];
  unsigned n = 0;
  for (const Octets frame : frames) burst[n++] = frame_of(frame, segments);
  const PortRole role = settings_->one_port ? PortRole::both : side == SideId::v4 ? PortRole::v4 : PortRole::v6;
  lane_->receive(role, burst, n, now_ns_);
}

std::size_t Harness::inject(Octets packets, std::span<const std::uint32_t> lengths) {
  const std::size_t taken = inject_.send(packets, lengths);
  for (std::size_t turns = 0; lane_->has_injected() && turns <= taken; ++turns) lane_->send_injected(now_ns_);
  return taken;
}

void Harness::apply(Settings settings) {
  if (!fixed_fields(*settings_, {}, settings, {}).empty()) {
    throw std::invalid_argument("settings: ports, MAC addresses, MTUs and reassembly.max_packets stay as they are");
  }
  auto next = std::make_unique<const Settings>(std::move(settings));
  lane_->adopt(*next);
  for (const SideId side : changed_next_hops(*settings_, *next)) lane_->renew_next_hop(side, now_ns_);
  if (announced_anew(*settings_, *next)) lane_->interface_up(now_ns_);
  settings_ = std::move(next);
}

void Harness::advance(std::uint64_t ms) {
  now_ns_ += ms * 1'000'000;
  lane_->tick(now_ns_);
}

void Harness::interface_up() { lane_->interface_up(now_ns_); }

void Harness::drop_held() { lane_->drop_held(); }

void Harness::set_next_hop(SideId side, const Mac& mac) {
  (side == SideId::v4 ? shared_.v4 : shared_.v6).learn(mac, true, now_ns_);
}

std::uint32_t Harness::mbufs_in_use() const { return rte_mempool_in_use_count(pool_.get()); }

void Harness::ended(Item& item, Counter way) noexcept {
  const bool ipv4 = item.task == Task::forward || item.task == Task::punt;
  const std::uint16_t ipv4_at = ipv4 ? item.inner : std::uint16_t{0};
  ends_.push_back({item.side, way, ipv4_at, item.lookup, item.softwire != nullptr, item.key,
                   item.softwire != nullptr ? *item.softwire : Softwire{}});
}

std::uint16_t Harness::send(SideId side, rte_mbuf** frames, std::uint16_t n) noexcept {
  for (std::uint16_t i = 0; i < n; ++i) {
    if (offloads_ == Offloads::none && frames[i]->nb_segs > 1) return i;  // such a port does not take it
    Frame& frame = sent_.emplace_back(side, std::vector<std::uint8_t>(packet::length(frames[i])));
    packet::copy_out(frames[i], 0, frame.octets.data(), packet::length(frames[i]));
    complete(*frames[i], frame.octets);
    rte_pktmbuf_free(frames[i]);
  }
  return n;
}

}  // namespace lw
