// Fragmentation: of the outer IPv6 packet when the path is narrower (RFC 2473 section 7.2b), of the IPv4 packet when
// the internet link is. librte_ip_frag does both; what it leaves open is written here: identification and checksums.
#include <rte_ip_frag.h>

#include <array>

#include "stage.hpp"

namespace lw {

namespace {

// A 65575-octet packet over the smallest IPv6 path (1280), and a 65535-octet one over IPv4's usual least (576).
constexpr std::uint16_t kMaxPieces = 128;

// RFC 7739 asks for identifications that do not repeat soon and cannot be guessed: a counter through a keyed
// permutation of 32 bits (a Feistel network of four rounds).
std::uint32_t permute(std::uint32_t number, std::uint64_t secret) {
  auto left = static_cast<std::uint16_t>(number >> 16), right = static_cast<std::uint16_t>(number);
  for (unsigned round = 0; round < 4; ++round) {
    const auto mixed = static_cast<std::uint16_t>(hash::mix(secret + round, right));
    const auto next = static_cast<std::uint16_t>(left ^ mixed);
    left = right;
    right = next;
  }
  return std::uint32_t{left} << 16 | right;
}

std::uint32_t next_id(Context& ctx) {
  return permute(ctx.shared.fragments_sent.fetch_add(1, std::memory_order_relaxed), ctx.shared.secret);
}

struct Pieces {
  std::array<rte_mbuf*, kMaxPieces> at;
  std::int32_t n;
};

// Without pieces there was no buffer.
void cut6(Context& ctx, rte_mbuf* frame, std::uint16_t mtu, Pieces& pieces) {
  pieces.n = rte_ipv6_fragment_packet(frame, pieces.at.data(), kMaxPieces, mtu, ctx.pool, ctx.pool);
  rte_pktmbuf_free(frame);
  if (pieces.n <= 0) return;
  const std::uint32_t id = next_id(ctx);
  for (std::int32_t i = 0; i < pieces.n; ++i) {
    store32(packet::data(pieces.at[static_cast<unsigned>(i)], ipv6::kHeader + 4), id);
  }
  ctx.count(Counter::fragments_v6_made, static_cast<std::uint64_t>(pieces.n));
}

void cut4(Context& ctx, rte_mbuf* frame, std::uint16_t mtu, Pieces& pieces) {
  pieces.n = rte_ipv4_fragment_packet(frame, pieces.at.data(), kMaxPieces, mtu, ctx.pool, ctx.pool);
  rte_pktmbuf_free(frame);
  if (pieces.n <= 0) return;
  for (std::int32_t i = 0; i < pieces.n; ++i) leave_checksum(ctx, pieces.at[static_cast<unsigned>(i)]);
  ctx.count(Counter::fragments_v4_made, static_cast<std::uint64_t>(pieces.n));
}

// The first is the received packet's way on, the others were made here; all were, if it is `count_`.
void send_pieces(Context& ctx, const Pieces& pieces, SideId side, Counter edge, const Origin& origin) {
  if (pieces.n <= 0) return edge == Counter::count_ ? ctx.count(Counter::tx_failed) : ctx.end(Counter::drop_no_buffer);
  for (std::int32_t i = 0; i < pieces.n; ++i) {
    rte_mbuf* piece = pieces.at[static_cast<unsigned>(i)];
    if (i == 0 && edge != Counter::count_) {
      forward(ctx, piece, side, edge, origin);
    } else {
      send_made(ctx, piece, side);
    }
  }
}

void send_answer(Context& ctx, const Pieces& pieces, SideId side, const Mac* to) {
  if (to == nullptr) return send_pieces(ctx, pieces, side, Counter::count_, {});
  if (pieces.n <= 0) return ctx.count(Counter::tx_failed);
  const std::uint16_t type = side == SideId::v4 ? ether::kIpv4 : ether::kIpv6;
  for (std::int32_t i = 0; i < pieces.n; ++i) {
    send_made_to(ctx, pieces.at[static_cast<unsigned>(i)], side, type, *to);
  }
}

}  // namespace

void split6(Context& ctx, rte_mbuf* frame, std::uint16_t mtu, Counter edge, const Origin& origin) {
  Pieces pieces;
  cut6(ctx, frame, mtu, pieces);
  send_pieces(ctx, pieces, SideId::v6, edge, origin);
}

void split4(Context& ctx, rte_mbuf* frame, std::uint16_t mtu, Counter edge, const Origin& origin) {
  Pieces pieces;
  cut4(ctx, frame, mtu, pieces);
  send_pieces(ctx, pieces, SideId::v4, edge, origin);
}

void split_answer6(Context& ctx, rte_mbuf* frame, std::uint16_t mtu, const Mac* to) {
  Pieces pieces;
  cut6(ctx, frame, mtu, pieces);
  send_answer(ctx, pieces, SideId::v6, to);
}

// What is made here has neither: it was never to be cut.
void split_answer4(Context& ctx, rte_mbuf* frame, std::uint16_t mtu, const Mac* to) {
  std::uint8_t* ip = packet::data(frame);
  store16(ip + ipv4::kFragment, 0);
  store16(ip + ipv4::kId, static_cast<std::uint16_t>(next_id(ctx)));
  Pieces pieces;
  cut4(ctx, frame, mtu, pieces);
  send_answer(ctx, pieces, SideId::v4, to);
}

}  // namespace lw
