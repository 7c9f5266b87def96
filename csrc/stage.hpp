// What all stages share: the packet on its way (Item), the lane's surroundings (Context), and the stage functions.
//
// A burst goes through three passes (lane.cpp): parse every packet to a key or to its end, look all keys up at once,
// act. Every Item ends in exactly one call that counts one edge, one drop or one hold; that call takes its frame.
#pragma once

#include <array>
#include <cstdint>

#include "binding_table.hpp"
#include "counters.hpp"
#include "headers.hpp"
#include "lane.hpp"
#include "packet.hpp"
#include "punt_ring.hpp"
#include "reassembly.hpp"
#include "settings.hpp"
#include "shared.hpp"

namespace lw {

class FragmentPorts;

// What the act pass has to do with a packet. The parse pass sends nothing and changes nothing that another packet of
// the burst could notice: the result for a packet must not depend on its neighbours.
enum class Task : std::uint8_t { forward, refuse6, local4, icmp6, ndp, multicast, arp, punt };

struct Icmp6Error {
  std::uint8_t type;
  std::uint8_t code;
  std::uint32_t value;
};

// A received packet. Its data starts at the outermost IP header and stays as received until the act pass.
struct Item {
  rte_mbuf* frame{};
  SideId side{};
  bool lookup{};      // the parse pass found a key
  bool passed{};      // it went on: the fragments that waited for it follow
  bool group_link{};  // came as link broadcast or multicast
  Task task{};
  std::uint16_t inner{};  // where the IPv4 header is: 0 on the IPv4 side; with Task::icmp6 the ICMPv6 header
  Counter refusal{};      // with Task::refuse6: the drop, and what its sender is told
  Icmp6Error error{};
  Mac from{};  // link source of the frame
  BindingKey key{};
  BindingAccounts::Number account{};  // of that key's binding, where bindings are counted
  const Softwire* softwire{};         // what the look-up found, null: nothing; the burst's
  rte_mbuf* copy{};                   // a tap's
  rte_mbuf* followers{};              // IPv4 fragments that waited for this first fragment, linked by their Waiting
};

// What is counted when the packet at hand leaves, and no sooner: a filter may refuse it, a next hop be silent.
struct Tally {
  bool any{};                            // some of the others
  Counter sent{Counter::count_};         // of a packet made here
  std::uint16_t octets{};                // of the IPv4 packet
  BindingAccounts::Number from{}, to{};  // the bindings it came out of and goes into
};

struct Transmitter;
class Tap;

struct Context {
  const Settings& settings;
  const BindingTable& table;
  Shared& shared;
  Counters& counters;
  rte_mempool* pool;
  Transmitter& out;
  FragmentPorts& fragment_ports;
  Reassembly& reassembly;
  PuntRing* punts;                           // null: no control side
  InjectRing* injects;                       // null: not this lane's
  const std::array<TxOffloads, 2> offloads;  // by SideId
  const BindingAccounts* accounts;           // null: nothing is counted by binding
  Account* book;                             // this lane's accounts, by number
  std::uint64_t now_ns{};
  Softwire hairpin_to{};  // the second softwire of the hairpinned packet at hand, and its account
  BindingAccounts::Number hairpin_account{};
  Tally tally{};  // set by whoever sends a packet on

  Tap* tap{};          // null: nobody watches
  Counter last_end{};  // how the latest item ended

  void count(Counter which, std::uint64_t amount = 1) { counters.add(which, amount); }
  // Counts the edge, drop or hold by which the item at hand ended.
  void end(Counter way) {
    counters.add(way);
    last_end = way;
  }
};

// The softwire a packet came through, seen from here: where errors about it and answers to it go.
inline Softwire softwire_of(const Item& item) {
  const std::uint8_t* outer = packet::data(item.frame);
  return {ipv6::source(outer), ipv6::destination(outer)};
}
inline bool from_softwire(const Item& item) { return item.side == SideId::v6; }
inline std::uint8_t* inner(const Item& item) { return packet::data(item.frame, item.inner); }

// The ends of an Item.
inline void drop(Context& ctx, Item& item, Counter reason) {
  ctx.end(reason);
  rte_pktmbuf_free(item.frame);
  item.frame = nullptr;
}
inline void consume(Context& ctx, Item& item, Counter edge) { drop(ctx, item, edge); }

// transmit.cpp ------------------------------------------------------------------------------------------------------
// A packet that waits for its next hop: what it is, and through which softwire it came if any (DP-203).
struct Origin {
  bool softwire_known{};
  Softwire softwire{};
};
// Sends a received packet on; `edge` counts its way, and ctx.tally what more is to be counted. Takes frame; data starts
// at the IP header.
void forward(Context& ctx, rte_mbuf* frame, SideId side, Counter edge, const Origin& origin);
// Sends a packet made here (answer, error, further fragment) to the next hop. `sent` counts it if it leaves.
void send_made(Context& ctx, rte_mbuf* frame, SideId side, Counter sent = Counter::count_);
// The same to a given station on the link.
void send_made_to(Context& ctx, rte_mbuf* frame, SideId side, std::uint16_t ethertype, const Mac& to,
                  Counter sent = Counter::count_);

// ethernet.cpp ------------------------------------------------------------------------------------------------------
enum class LinkResult : std::uint8_t { ended, arp, ipv4, ipv6 };
// Counts the frame in and strips its link header.
LinkResult read_link(Context& ctx, Item& item, PortRole role);

// ipv4.cpp ----------------------------------------------------------------------------------------------------------
// Checks a received IPv4 header at `offset`. Returns the drop, or count_ if good. At offset 0 the port may have said
// what it thinks of the checksum.
Counter check_ipv4(rte_mbuf* frame, std::uint16_t offset);
// The header checksum of the packet at the front of a frame that leaves by the IPv4 side: the port writes it if it can.
void leave_checksum(const Context& ctx, rte_mbuf* frame);
// Writes what was left to the port: the frame goes another way after all.
void write_left_checksum(rte_mbuf* frame);
// Leaves nothing but the IPv4 packet in the frame: no outer headers, nothing behind its Total Length (DP-003, DP-082).
void take_ipv4(const Item& item);
Counter check_ipv4_options(const Settings& settings, const std::uint8_t* ip);
bool martian_source(Ipv4 address);
bool martian_destination(Ipv4 address);
inline bool softwire_only(Ipv4 address) { return (address & ~Ipv4{7}) == 0xc0000000; }  // 192.0.0.0/29, DP-007
inline constexpr Ipv4 kAftrIpv4 = 0xc0000001;                                           // RFC 6333 section 6.5
// Sets TTL and TOS and mends the checksum (RFC 1624).
void rewrite_ttl_tos(std::uint8_t* ip, std::uint8_t ttl, std::uint8_t tos);
bool is_own_ipv4(const Settings& settings, Ipv4 address);

// steer.cpp: which port finds the binding (spec 4.2, 4.9)
// ---------------------------------------------------------------
enum class Direction : std::uint8_t { downstream, upstream };
struct Steering {
  enum class Result : std::uint8_t { port, none, held, refused };
  Result result;
  std::uint16_t port{};
  Counter reason{};  // with refused
};
// Of an IPv4 packet for a shared address. With `held` its frame has been taken.
Steering steer(Context& ctx, Item& item, Direction direction);
// Fills item.key and item.lookup for the destination (downstream) or the source. False = the item has ended.
bool make_key(Context& ctx, Item& item, Direction direction);
// IPv4 fragments that waited: let them follow their first one, or drop them.
void follow(Context& ctx, Item& item, rte_mbuf* chain);
void drop_waiting(Context& ctx, rte_mbuf* chain, Counter reason);

// parse4.cpp, parse6.cpp: the parse pass. False = the item has ended.
// --------------------------------------------------
bool parse4(Context& ctx, Item& item);
bool parse6(Context& ctx, Item& item);

// local.cpp: what is put together here --------------------------------------------------------------------------------
// True = item.frame is the whole packet now. `sender` is whose share of the store it takes.
bool put_together(Context& ctx, Item& item, const Reassembly::Fragment& fragment, std::uint64_t sender);
// Ends the fragments of a packet that did not become whole, linked by Reassembly::Part.
void reassembly_timed_out(Context& ctx, rte_mbuf* chain, bool tell);

// encap.cpp, decap.cpp: the act pass ---------------------------------------------------------------------------------
void encap(Context& ctx, Item& item);
void decap(Context& ctx, Item& item);
// Into a softwire: from the internet, or hairpinned with `came_through`. tos is the inner one after decapsulation.
void into_softwire(Context& ctx, Item& item, const Softwire& to, std::uint8_t tos);
// Puts the outer header before the IPv4 packet at the start of `frame`.
void wrap(Context& ctx, rte_mbuf* frame, const Softwire& to);
std::uint16_t tunnel_overhead(const Settings& settings);
// Destination options with the encapsulation limit (RFC 2473 section 4.1.1).
constexpr std::array<std::uint8_t, 8> limit_option(std::uint8_t limit) {
  return {proto::kIpv4, 0, 4, 1, limit, 1, 1, 0};
}
// RFC 6438: a keyed hash of the inner flow, never 0 (RFC 6437 appendix A). `second` are octets 8 to 15 of the IPv4
// header, of which protocol and source belong to the flow; `third` has the destination, and above it the ports.
inline std::uint32_t flow_label_of(std::uint64_t secret, std::uint64_t second, std::uint64_t third) {
  constexpr std::uint64_t kProtocolAndSource = 0xffffffff0000ff00;
  const auto label = static_cast<std::uint32_t>(hash::mix((second & kProtocolAndSource) ^ secret, third) & 0xfffff);
  return label == 0 ? 1 : label;
}
std::uint16_t configured_path_mtu(const Settings& settings);
std::uint16_t path_mtu(Context& ctx, const Ipv6& b4);

// icmp_error.cpp -----------------------------------------------------------------------------------------------------
struct Icmp4Error {
  std::uint8_t type;
  std::uint8_t code;
  std::uint16_t mtu;
  Counter sent;
};
inline constexpr Icmp4Error kTtlExpired{icmp4::kTimeExceeded, 0, 0, Counter::icmp4_sent_ttl};
inline constexpr Icmp4Error kHostUnreachable{icmp4::kUnreachable, icmp4::kHostUnreachable, 0,
                                             Counter::icmp4_sent_unreachable};
inline constexpr Icmp4Error too_big(std::uint16_t mtu) {
  return {icmp4::kUnreachable, icmp4::kTooBig, mtu, Counter::icmp4_sent_too_big};
}
// Ends the item with `reason`; tells its IPv4 source if the rules allow (DP-122). The answer takes the way it came.
void refuse4(Context& ctx, Item& item, Counter reason, const Icmp4Error& error);
// Makes the ICMPv4 error about the packet at the start of `frame`, in place, and sends it. False: not allowed; frame
// kept.
bool send_icmp4_error(Context& ctx, rte_mbuf* frame, const Icmp4Error& error, const Softwire* via);
// The same for the outer packet: it goes to the outer source only.
void refuse6(Context& ctx, Item& item, Counter reason, const Icmp6Error& error);
bool send_icmp6_error(Context& ctx, rte_mbuf* frame, const Icmp6Error& error, bool group_link);
// Headers of our own before an ICMP message; the ICMPv6 checksum is written too.
inline constexpr std::uint8_t kOwnTtl = 64;
void build_ipv4_icmp(const Context& ctx, rte_mbuf* frame, std::uint8_t tos, Ipv4 source, Ipv4 destination,
                     SideId leaves_by);
void build_ipv6_icmp(rte_mbuf* frame, const Ipv6& from, const Ipv6& to, std::uint8_t hop_limit);

// icmp_relay.cpp: ICMPv6 that reached an own address
// --------------------------------------------------------------------
void icmp6_received(Context& ctx, Item& item);

// control.cpp: to and from the control side -------------------------------------------------------------------------
void punt_pcp(Context& ctx, Item& item);
// Of a packet out of a softwire that its binding does not vouch for, or that has none. True: no code 5 yet, the control
// side was asked a moment ago.
bool report_unmatched(Context& ctx, const Item& item);
void send_injected(Context& ctx);

// split.cpp: fragmentation, outer and IPv4
// -----------------------------------------------------------------------------
void split6(Context& ctx, rte_mbuf* frame, std::uint16_t mtu, Counter edge, const Origin& origin);
void split4(Context& ctx, rte_mbuf* frame, std::uint16_t mtu, Counter edge, const Origin& origin);
// Answers, which go to the next hop or to a station on the link.
void split_answer6(Context& ctx, rte_mbuf* frame, std::uint16_t mtu, const Mac* to);
void split_answer4(Context& ctx, rte_mbuf* frame, std::uint16_t mtu, const Mac* to);

// echo.cpp, arp.cpp, ndp.cpp: what the router answers itself
// -------------------------------------------------------------
void local4(Context& ctx, Item& item);
void echo6(Context& ctx, Item& item, std::uint16_t offset);
void arp_received(Context& ctx, Item& item);
void ndp_received(Context& ctx, Item& item);
bool is_ndp(const Item& item);
void multicast_received(Context& ctx, Item& item);  // to an IPv6 group
void send_arp_request(Context& ctx, Ipv4 sender, Ipv4 target, const Mac* direct);
void send_solicitation(Context& ctx, const Mac* direct);
void send_unsolicited_advertisement(Context& ctx, const Ipv6& address);
void send_mld_report(Context& ctx, bool asked);
bool is_mld_query(const Item& item);
void mld_query_received(Context& ctx, Item& item);

// mss.cpp ------------------------------------------------------------------------------------------------------------
void clamp_mss(Context& ctx, std::uint8_t* ip, std::uint32_t readable);

}  // namespace lw
