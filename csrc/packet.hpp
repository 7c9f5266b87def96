// The one view of an rte_mbuf. Stages touch packets through these functions only: data() is contiguous for the parse
// window, everything beyond is reached by copying or by walking segments here.
#pragma once

#include <rte_mbuf.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "types.hpp"

namespace lw::packet {

// Headers have to end within this many octets of the IP header (RFC 7112 lets a node set such a bound): long enough for
// an IPv6 header, extension headers, a quoted packet and its IPv4 options; contiguous even if a frame comes in pieces.
inline constexpr std::uint16_t kWindow = 768;

// Octets that a stage may keep beside a held packet, in the buffer's private area.
inline constexpr std::uint16_t kPrivate = 64;

inline std::uint8_t* data(const rte_mbuf* frame, std::uint32_t offset = 0) {
  return rte_pktmbuf_mtod_offset(frame, std::uint8_t*, offset);
}
inline std::uint32_t length(const rte_mbuf* frame) { return frame->pkt_len; }

// How many octets can be read through data().
inline std::uint32_t window(const rte_mbuf* frame) { return std::min<std::uint32_t>(frame->data_len, kWindow); }

// Drops octets at the front; they must lie in the first segment.
inline void pull(rte_mbuf* frame, std::uint16_t octets) {
  frame->data_off = static_cast<std::uint16_t>(frame->data_off + octets);
  frame->data_len = static_cast<std::uint16_t>(frame->data_len - octets);
  frame->pkt_len -= octets;
}

// The most that is ever pushed before a frame that begins where it was received: outer header with its option, link
// header with a tag. An error pushes 28 octets more, but only after a softwire's 54 were pulled.
static_assert(RTE_PKTMBUF_HEADROOM >= 48 + 28 + 18);

// Makes room at the front; the headroom is always enough.
inline std::uint8_t* push(rte_mbuf* frame, std::uint16_t octets) {
  frame->data_off = static_cast<std::uint16_t>(frame->data_off - octets);
  frame->data_len = static_cast<std::uint16_t>(frame->data_len + octets);
  frame->pkt_len += octets;
  return data(frame);
}

// Cuts the packet to `octets`; frees segments that fall away. Makes it no longer.
void cut_segments(rte_mbuf* frame, std::uint32_t octets);
inline void cut(rte_mbuf* frame, std::uint32_t octets) {
  if (octets >= frame->pkt_len) return;
  if (frame->nb_segs == 1) {
    frame->data_len = static_cast<std::uint16_t>(octets);
    frame->pkt_len = octets;
    return;
  }
  cut_segments(frame, octets);
}

// Makes the first min(length, kWindow) octets contiguous. False if the first segment has no room for them.
bool gather_segments(rte_mbuf* frame, std::uint32_t wanted);
inline bool gather(rte_mbuf* frame, std::uint32_t wanted = kWindow) {
  return frame->nb_segs == 1 || gather_segments(frame, wanted);
}

// Puts octets into a fresh buffer; it has the room.
inline void fill(rte_mbuf* frame, const std::uint8_t* octets, std::uint16_t length) {
  frame->data_len = length;
  frame->pkt_len = length;
  std::memcpy(data(frame), octets, length);
}

// Adds `tail`'s segments behind `head`'s.
void append(rte_mbuf* head, rte_mbuf* tail);

// Copies octets out of whatever segments they lie in; the range must exist.
void copy_out(const rte_mbuf* frame, std::uint32_t offset, void* to, std::uint32_t octets);

template <class T>
T* priv(rte_mbuf* frame) {
  static_assert(sizeof(T) <= kPrivate && alignof(T) <= 8);
  return static_cast<T*>(rte_mbuf_to_priv(frame));
}

}  // namespace lw::packet
