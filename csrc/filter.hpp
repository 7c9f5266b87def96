// A pcap-filter expression (pcap-filter(7)) ready to run on frames: compiled by libpcap, translated and run by
// librte_bpf.
//
// It sees a frame from its Ethernet header on and without a tag: which VLAN a side is in is not the packet's affair,
// and the same text works on tagged and untagged sides. It sees all frames of its side, ARP and neighbour discovery
// too: a list of what may pass has to name them ("arp or ...", "icmp6 or ...") unless the next hop's MAC is configured.
#pragma once

#include <rte_mbuf.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "headers.hpp"
#include "packet.hpp"

namespace lw {

class FilterError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Filter {
 public:
  // From the fastest to the slowest. JIT needs memory that may be executed; librte_bpf takes no loops, which the
  // keyword protochain makes; before EAL is up it takes nothing. libpcap's own interpreter takes all.
  enum class Engine : std::uint8_t { jit, rte_bpf, libpcap };

  // Throws FilterError with what libpcap says about the text. `best`: faster engines are not tried (tests).
  explicit Filter(const std::string& text, Engine best = Engine::jit);
  ~Filter();
  Filter(const Filter&) = delete;
  Filter& operator=(const Filter&) = delete;

  // What is wrong with the text; needs no EAL.
  static std::optional<std::string> fault(const std::string& text);
  // Whether the frame of `length` octets passes, asked once and without EAL.
  static bool passes_offline(const std::string& text, const std::uint8_t* frame, std::uint32_t length);

  // From any thread. The frame may lie in several segments.
  bool passes(rte_mbuf* frame) const { return run_ != nullptr ? run_(frame) != 0 : interpret(frame); }
  Engine engine() const { return engine_; }

 private:
  struct Program;
  bool interpret(rte_mbuf* frame) const;

  std::uint64_t (*run_)(void*){};  // with JIT
  Engine engine_{Engine::libpcap};
  std::unique_ptr<Program> program_;
};

// The same for a frame that may have a tag, which is laid aside meanwhile.
inline bool passes_untagged(const Filter& filter, rte_mbuf* frame) {
  constexpr std::uint16_t kTagged = ether::kHeader + ether::kTag;
  if (frame->data_len < kTagged || load16(packet::data(frame) + 12) != ether::kVlan) return filter.passes(frame);
  const auto header = load<std::array<std::uint8_t, kTagged>>(packet::data(frame));
  std::memmove(packet::data(frame) + ether::kTag, header.data(), 2 * sizeof(Mac));
  packet::pull(frame, ether::kTag);
  const bool passes = filter.passes(frame);
  store(packet::push(frame, ether::kTag), header);
  return passes;
}

}  // namespace lw
