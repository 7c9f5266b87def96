// One ethdev port: found or made from its device string, configured, started, closed.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "types.hpp"

struct rte_mempool;

namespace lw {

class PortError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct PortStats {
  std::uint64_t rx_packets{};
  std::uint64_t rx_missed{};
  std::uint64_t rx_errors{};
  std::uint64_t rx_no_buffer{};
  std::uint64_t tx_packets{};
  std::uint64_t tx_errors{};
};

struct PortLink {
  bool up{};
  std::uint32_t speed_mbps{};
};

class Port {
 public:
  struct Limits {
    std::uint16_t rx_queues;
    std::uint16_t tx_queues;
  };
  static constexpr std::uint16_t kDescriptors = 1024;
  struct Setup {
    std::uint16_t rx_queues;
    std::uint16_t tx_queues;
    std::uint16_t mtu;  // L3 octets
    bool promiscuous;   // the stages filter by MAC themselves
    rte_mempool* pool;
    bool offloads;       // what the device offers and the stages can use; false: they do all themselves
    bool inner = false;  // spread over the queues by the IPv4 header inside a softwire
    std::uint16_t rx_descriptors = kDescriptors;  // of each queue, within what the device takes
  };
  // Which of it is in use.
  struct Offloads {
    bool rx_ipv4_checksum{};
    bool rx_scatter{};
    bool tx_ipv4_checksum{};
    std::uint16_t tx_segments{1};  // buffers of one frame, 65535 = any number
  };

  // A PCI address or a vdev with its arguments; `where` names it in messages ("interfaces.v4.port").
  Port(const std::string& device, const std::string& where);
  ~Port();
  Port(const Port&) = delete;
  Port& operator=(const Port&) = delete;

  Limits limits() const;
  // The answer tells whether the device filters for `mac` now; if not, it has to be promiscuous.
  bool use_mac(const Mac& mac);
  void configure(const Setup& setup);
  void start();
  void stop();
  void close();

  std::uint16_t id() const { return id_; }
  const std::string& device() const { return device_; }
  std::string driver() const;
  Mac mac() const;          // that of the device
  Mac station_mac() const;  // ours, when none is configured
  std::uint16_t mtu() const;
  int numa() const;
  PortLink link() const;
  PortStats stats() const;
  const Offloads& offloads() const { return offloads_; }
  const std::string& remark() const { return remark_; }  // what the device could not do

 private:
  [[noreturn]] void fail(const std::string& what, int error) const;
  void choose_offloads(const Setup& setup);
  void set_mtu(std::uint16_t mtu);
  void receive_groups(bool promiscuous);
  std::uint64_t spread(const Setup& setup, std::uint64_t offloads);
  void remark(const std::string& text);

  std::string device_;
  std::string where_;
  std::string remark_;
  Offloads offloads_;
  std::uint16_t id_{};
  std::uint16_t inner_queues_{};  // not 0: a rule spreads packets over them by inner headers
  bool ours_{};                   // made by us, so removed by us
  bool started_{};
  bool open_{};
};

}  // namespace lw
