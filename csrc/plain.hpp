// The short way of plain packets: what nearly all traffic is, read, looked up and rewritten in three tight loops.
//
// The stages are the rule, this is their short form. A packet is plain if a dozen comparisons show that no stage would
// do anything with it but forward it: one buffer, our MAC and the side's tag, a good IPv4 header without options, not a
// fragment, TCP or UDP; from a softwire one IPv6 header before it and nothing else. Whatever is not plain, or turns out
// not to be when its turn comes (not bound, TTL, a size that does not fit, ECN marks that differ), has not been touched
// and goes through the stages from the beginning: no packet is refused here. tests/test_plain_way.py compares both
// ways. plain_read.cpp has the first two loops, plain_act.cpp the third.
#pragma once

#include <array>
#include <cstdint>

#include "pattern.hpp"
#include "stage.hpp"
#include "transmit.hpp"

namespace lw {

// Of the first eight octets. (A swap of 16 bits goes through memory where there is MOVBE.)
inline std::uint32_t total_length(std::uint64_t first) { return byte_swap(static_cast<std::uint32_t>(first)) & 0xffff; }

class PlainWay {
 public:
  explicit PlainWay(const Settings& settings) { use(settings); }
  // Takes from the settings what packets are compared with; they have to stay where they are until the next use().
  void use(const Settings& settings);

  // Reads a burst: bit i of the answer says that frames[i] is plain. Changes nothing.
  std::uint64_t read(const Context& ctx, PortRole role, rte_mbuf* const* frames, unsigned n);
  // Looks up what read() has found.
  void locate(const Context& ctx);
  // Forwards the plain packets first .. last - 1 of the burst, counted among themselves. Returns last, or the number of
  // the one that has to go through the stages; it is as it was received.
  unsigned act(Context& ctx, unsigned first, unsigned last);

 private:
  // What the frames of a side look like.
  struct Link {
    bool usable{};          // false: a filter would need the tag moved away
    std::uint8_t header{};  // octets of the link header
    Pattern begin;          // of the frame, as far as the packet's is the same for all
    const Filter* ingress{};
    bool further{};  // there is more to be looked at than one address
  };
  // How the outer header is made.
  struct Outer {
    std::uint64_t fixed;      // the first eight octets, host order, for an IPv4 packet of no octets
    std::uint64_t class_and;  // what of the inner traffic class is copied, at its place in them
    std::uint64_t option;     // the encapsulation limit's header
    std::uint16_t overhead;   // of octets before the IPv4 header
    bool hash;
  };
  // The addresses that a burst is compared with.
  struct Own {
    std::uint32_t first4;
    bool more4;
    bool more_br;
    Pattern inside;  // from 16 octets before a softwire's IPv4 packet on: the one BR address, and how that begins
  };
  enum Kind : std::uint8_t { kEncap, kDecap, kHairpin };  // hairpin + n: its second look-up is number n

  template <bool kBare>
  struct Run;  // one call of act()

  void use_outer(const Settings& settings);

  bool read4(const BindingTable& table, const Link& link, const Own& own, rte_mbuf* frame, unsigned k);
  bool read6(const BindingTable& table, const Link& link, const Own& own, rte_mbuf* frame, unsigned k);
  bool further(const Link& link, const Own& own, rte_mbuf* frame, const std::uint8_t* ip) const;
  template <bool kBare>
  unsigned act_as(Context& ctx, unsigned first, unsigned last);
  template <bool kBare>
  unsigned encap(Context& ctx, unsigned k, unsigned last);
  template <bool kBare>
  unsigned decap(Context& ctx, unsigned k, unsigned last);
  template <bool kBare>
  unsigned hairpin(Context& ctx, unsigned k, unsigned last);
  void count_run(Context& ctx, unsigned first, unsigned last) const;
  template <bool kBare>
  bool vouched(const Context& ctx, unsigned k, std::uint64_t first, std::uint8_t& tos) const;

  const Settings* settings_{};
  Link v4_{}, v6_{};
  Outer outer_{};
  Own own_{};
  bool bare_{};  // no filter at the way out, no MSS clamp, no option; flow labels are hashed, DSCP is copied

  unsigned n_{};
  unsigned onward_{};
  std::array<rte_mbuf*, Lane::kBurst> frames_;
  std::array<std::uint8_t*, Lane::kBurst> ips_;  // their IPv4 headers
  std::array<std::uint8_t, Lane::kBurst> kinds_;
  BindingTable::Query first_;
  BindingTable::Query second_;
  // By the numbers of the two queries, where bindings are counted.
  std::array<BindingAccounts::Number, Lane::kBurst> accounts_{};
  std::array<BindingAccounts::Number, Lane::kBurst> onward_accounts_{};
};

}  // namespace lw
