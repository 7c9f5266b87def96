#include "port.hpp"

#include <rte_bus.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>
#include <vector>

#include "eal.hpp"
#include "lane.hpp"
#include "rss_inner.hpp"

namespace lw {
namespace {

// DPDK's own words about a failure are only in its log, among generalities.
std::string logged_reason() {
  constexpr std::array<std::string_view, 6> kGeneral{"probe failed",     "Driver cannot attach", "failed to initialize",
                                                     "Failed to attach", "Initializing",         "IPC is disabled"};
  std::string reason;
  for (const std::string& line : Eal::take_log()) {
    const auto in_line = [&line](std::string_view text) { return line.find(text) != std::string::npos; };
    if (std::any_of(kGeneral.begin(), kGeneral.end(), in_line)) continue;
    reason += (reason.empty() ? "" : "; ") + line;
  }
  return reason;
}

rte_eth_dev_info device_info(std::uint16_t id) {
  rte_eth_dev_info info{};
  if (rte_eth_dev_info_get(id, &info) != 0) info = {};
  return info;
}

std::uint16_t clamped_descriptors(const rte_eth_desc_lim& limits, std::uint16_t wanted) {
  const std::uint16_t most = limits.nb_max == 0 ? wanted : limits.nb_max;
  return std::clamp(wanted, std::min(limits.nb_min, most), most);
}

// As rte_eth_dev_configure() reckons it.
std::uint32_t largest_mtu(const rte_eth_dev_info& info) {
  const bool told = info.max_mtu != UINT16_MAX && info.max_rx_pktlen > info.max_mtu;
  const std::uint32_t overhead = told ? info.max_rx_pktlen - info.max_mtu : RTE_ETHER_HDR_LEN + RTE_ETHER_CRC_LEN;
  return std::min<std::uint32_t>(info.max_mtu, info.max_rx_pktlen - overhead);
}

}  // namespace

Port::Port(const std::string& device, const std::string& where) : device_(device), where_(where) {
  const std::string name = device.substr(0, device.find(','));
  // A PCI port was probed by EAL because -a named it; a vdev is made here, so that a failure has its name on it.
  if (rte_eth_dev_get_port_by_name(name.c_str(), &id_) != 0) {
    Eal::take_log();
    const int result = rte_dev_probe(device.c_str());
    if (result != 0) fail("DPDK cannot open this port: check its name and arguments, and that this runs as root", 0);
    ours_ = true;
    if (rte_eth_dev_get_port_by_name(name.c_str(), &id_) != 0) fail("DPDK has no Ethernet device of this name", 0);
  }
  open_ = true;
}

Port::~Port() { close(); }

void Port::fail(const std::string& what, int error) const {
  std::string text = where_ + ": " + device_ + ": " + what;
  const std::string log = logged_reason();
  if (!log.empty()) {
    text += " (" + log + ")";
  } else if (error != 0) {
    text += std::string(" (") + rte_strerror(error) + ")";
  }
  throw PortError(text);
}

void Port::remark(const std::string& text) { remark_ += (remark_.empty() ? "" : "; ") + text; }

Port::Limits Port::limits() const {
  const rte_eth_dev_info info = device_info(id_);
  return {info.max_rx_queues, info.max_tx_queues};
}

bool Port::use_mac(const Mac& wanted) {
  if (wanted == mac()) return true;
  // The MAC of a TAP port is that of the kernel's end of the wire, which is another station.
  if (driver() == "net_tap") return false;
  rte_ether_addr address;
  std::memcpy(address.addr_bytes, wanted.octets.data(), sizeof address.addr_bytes);
  return rte_eth_dev_default_mac_addr_set(id_, &address) == 0;
}

void Port::configure(const Setup& setup) {
  const rte_eth_dev_info info = device_info(id_);
  rte_eth_conf conf{};
  const std::uint32_t largest = largest_mtu(info);
  // af_packet names the frame of plain Ethernet whatever its interface and its ring carry.
  const bool understates = driver() == "net_af_packet";
  Eal::take_log();
  if (setup.mtu > largest && !understates)
    fail("the device takes no MTU above " + std::to_string(largest) +
             ": lower the mtu of its side, or choose another port",
         0);
  conf.rxmode.mtu = std::min<std::uint32_t>(setup.mtu, largest);
  choose_offloads(setup);
  if (offloads_.rx_ipv4_checksum) conf.rxmode.offloads |= RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
  if (offloads_.rx_scatter) conf.rxmode.offloads |= RTE_ETH_RX_OFFLOAD_SCATTER;
  if (offloads_.tx_ipv4_checksum) conf.txmode.offloads |= RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
  if (offloads_.tx_segments > 1) conf.txmode.offloads |= RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
  conf.rx_adv_conf.rss_conf.rss_hf = spread(setup, info.flow_type_rss_offloads);
  if (conf.rx_adv_conf.rss_conf.rss_hf != 0) conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
  int result = rte_eth_dev_configure(id_, setup.rx_queues, setup.tx_queues, &conf);
  if (result != 0) fail("DPDK cannot configure this port", -result);
  if (setup.mtu <= largest) set_mtu(setup.mtu);

  const int socket = rte_eth_dev_socket_id(id_);
  const auto on = static_cast<unsigned>(socket);
  for (std::uint16_t queue = 0; queue < setup.rx_queues; ++queue) {
    result = rte_eth_rx_queue_setup(id_, queue, clamped_descriptors(info.rx_desc_lim, setup.rx_descriptors), on,
                                    nullptr, setup.pool);
    if (result != 0) fail("DPDK cannot set up a receive queue", -result);
  }
  for (std::uint16_t queue = 0; queue < setup.tx_queues; ++queue) {
    result = rte_eth_tx_queue_setup(id_, queue, clamped_descriptors(info.tx_desc_lim, kDescriptors), on, nullptr);
    if (result != 0) fail("DPDK cannot set up a transmit queue", -result);
  }
  receive_groups(setup.promiscuous);
  if (inner_queues_ == 0) return;
  if (const std::string why = rss_inner::obstacle(id_, inner_queues_); !why.empty()) {
    inner_queues_ = 0;
    remark("the device cannot spread packets by inner headers (" + why +
           "), so it does by outer ones; dataplane.rss: software spreads them by subscriber");
  }
}

// What RSS hashes: addresses only. By ports, the fragments of a datagram would part from their first one, whose worker
// knows the port. The inner level is a capability, or takes a rule, or is not to be had.
std::uint64_t Port::spread(const Setup& setup, std::uint64_t offloads) {
  if (setup.rx_queues <= 1) return 0;
  std::uint64_t hashed = RTE_ETH_RSS_IP & offloads;
  // A device of the kernel's or of files is spread by others.
  if (hashed == 0 && !ours_) {
    remark("the device has no RSS, so one worker gets all packets; dataplane.rss: software spreads them");
  }
  if (!setup.inner) return hashed;
  if (hashed != 0 && (offloads & RTE_ETH_RSS_LEVEL_MASK & RTE_ETH_RSS_LEVEL_INNERMOST) != 0) {
    return hashed | RTE_ETH_RSS_LEVEL_INNERMOST;
  }
  inner_queues_ = setup.rx_queues;
  return hashed;
}

// No checksum of TCP, UDP or ICMP: nothing here makes a whole one of those, and what passes is mended, not made. No TSO
// or LRO: a router sends the packets that it got.
void Port::choose_offloads(const Setup& setup) {
  const rte_eth_dev_info info = device_info(id_);
  offloads_ = {};
  // Receive buffers of some devices are counted in steps of 1 KiB: a frame may need two where one would hold it.
  const std::uint32_t room = (rte_pktmbuf_data_room_size(setup.pool) - RTE_PKTMBUF_HEADROOM) / 1024U * 1024U;
  const std::uint32_t frame = setup.mtu + std::uint32_t{RTE_ETHER_HDR_LEN + RTE_ETHER_CRC_LEN + 2 * RTE_VLAN_HLEN};
  offloads_.rx_scatter = frame > room && (info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER) != 0;
  if (!setup.offloads) return;
  offloads_.rx_ipv4_checksum = (info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_IPV4_CKSUM) != 0;
  offloads_.tx_ipv4_checksum = (info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_IPV4_CKSUM) != 0;
  if ((info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS) == 0) return;
  const std::uint16_t most = info.tx_desc_lim.nb_mtu_seg_max;
  offloads_.tx_segments = most == 0 ? TxOffloads::kAnySegments : most;
}

void Port::set_mtu(std::uint16_t mtu) {
  const int result = rte_eth_dev_set_mtu(id_, mtu);
  if (result == 0 || result == -ENOTSUP) return;  // a device without the call takes what comes
  fail("the device does not take an MTU of " + std::to_string(mtu), -result);
}

void Port::receive_groups(bool promiscuous) {
  // Neighbour solicitations come to multicast addresses.
  if (!promiscuous && rte_eth_allmulticast_enable(id_) == 0) return;
  if (rte_eth_promiscuous_enable(id_) != 0) {
    remark(
        "the device has neither an all-multicast nor a promiscuous mode: it must pass foreign MAC addresses by itself");
  }
}

void Port::start() {
  Eal::take_log();
  const int result = rte_eth_dev_start(id_);
  if (result != 0) fail("DPDK cannot start this port", -result);
  started_ = true;
  if (inner_queues_ == 0) return;
  if (const std::string why = rss_inner::set(id_, inner_queues_); !why.empty()) {
    fail("the device does not spread packets by inner headers as it said it would (" + why +
             "): set dataplane.rss: software or outer",
         0);
  }
}

void Port::stop() {
  if (!started_) return;
  started_ = false;
  rte_eth_dev_stop(id_);
}

void Port::close() {
  if (!open_) return;
  open_ = false;
  if (!Eal::running()) return;
  stop();
  rte_eth_dev_info info = device_info(id_);
  rte_device* const device = info.device;
  rte_eth_dev_close(id_);
  if (ours_ && device != nullptr) rte_dev_remove(device);
}

std::string Port::driver() const {
  const rte_eth_dev_info info = device_info(id_);
  return info.driver_name == nullptr ? std::string{} : std::string(info.driver_name);
}

Mac Port::mac() const {
  rte_ether_addr address{};
  rte_eth_macaddr_get(id_, &address);
  Mac mac;
  std::memcpy(mac.octets.data(), address.addr_bytes, mac.octets.size());
  return mac;
}

Mac Port::station_mac() const {
  Mac own = mac();
  if (driver() == "net_tap") own.octets[5] ^= 1;  // see use_mac
  return own;
}

std::uint16_t Port::mtu() const {
  std::uint16_t mtu = 0;
  rte_eth_dev_get_mtu(id_, &mtu);
  return mtu;
}

int Port::numa() const { return rte_eth_dev_socket_id(id_); }

PortLink Port::link() const {
  rte_eth_link link{};
  if (rte_eth_link_get_nowait(id_, &link) != 0) return {};
  return {link.link_status == RTE_ETH_LINK_UP, link.link_speed};
}

PortStats Port::stats() const {
  rte_eth_stats stats{};
  if (rte_eth_stats_get(id_, &stats) != 0) return {};
  return {stats.ipackets, stats.imissed, stats.ierrors, stats.rx_nombuf, stats.opackets, stats.oerrors};
}

}  // namespace lw
