// Fragmentation: of the outer IPv6 packet when the path is narrower (RFC 2473 section 7.2b), of the IPv4 packet when
// the internet link is. librte_ip_frag does both; what it leaves open is written here: identification and checksums.
#include <rte_ip_frag.h>

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

// Sends the pieces: the first is the received packet's way on, the others were made here.
void send_pieces(Context& ctx, rte_mbuf** pieces, int n, SideId side, Counter edge, const Origin& origin) {
  for (int i = 0; i < n; ++i) {
    if (i == 0 && edge != Counter::count_) {
      forward(ctx, pieces[i], side, edge, origin);
    } else {
      send_made(ctx, pieces[i], side);
    }
  }
}

void no_pieces(Context& ctx, Counter edge) {
  if (edge == Counter::count_) {
    ctx.count(Counter::tx_failed);
  } else {
    ctx.end(Counter::drop_no_buffer);
  }
}

}  // namespace

void split6(Context& ctx, rte_mbuf* frame, std::uint16_t mtu, Counter edge, const Origin& origin) {
  rte_mbuf* pieces[kMaxPieces];
  const std::int32_t n = rte_ipv6_fragment_packet(frame, pieces, kMaxPieces, mtu, ctx.pool, ctx.pool);
  rte_pktmbuf_free(frame);
  if (n <= 0) return no_pieces(ctx, edge);
  const std::uint32_t id =
      permute(ctx.shared.fragments_sent.fetch_add(1, std::memory_order_relaxed), ctx.shared.secret);
  for (std::int32_t i = 0; i < n; ++i) store32(packet::data(pieces[i], ipv6::kHeader + 4), id);
  ctx.count(Counter::fragments_v6_made, static_cast<std::uint64_t>(n));
  send_pieces(ctx, pieces, n, SideId::v6, edge, origin);
}

void split4(Context& ctx, rte_mbuf* frame, std::uint16_t mtu, Counter edge, const Origin& origin) {
  rte_mbuf* pieces[kMaxPieces];
  const std::int32_t n = rte_ipv4_fragment_packet(frame, pieces, kMaxPieces, mtu, ctx.pool, ctx.pool);
  rte_pktmbuf_free(frame);
  if (n <= 0) return no_pieces(ctx, edge);
  for (std::int32_t i = 0; i < n; ++i) {
    leave_checksum(ctx, pieces[i]);
  }
  ctx.count(Counter::fragments_v4_made, static_cast<std::uint64_t>(n));
  send_pieces(ctx, pieces, n, SideId::v4, edge, origin);
}

}  // namespace lw
