#include "packet.hpp"

namespace lw::packet {

void cut_segments(rte_mbuf* frame, std::uint32_t octets) {
  rte_mbuf* last = frame;
  std::uint32_t left = octets;
  std::uint16_t segments = 1;
  while (left > last->data_len) {
    left -= last->data_len;
    last = last->next;
    ++segments;
  }
  if (last->next != nullptr) rte_pktmbuf_free(last->next);
  last->next = nullptr;
  last->data_len = static_cast<std::uint16_t>(left);
  frame->nb_segs = segments;
  frame->pkt_len = octets;
}

bool gather_segments(rte_mbuf* frame, std::uint32_t wanted) {
  wanted = std::min(wanted, frame->pkt_len);
  if (frame->data_len >= wanted) return true;
  const std::uint32_t missing = wanted - frame->data_len;
  if (rte_pktmbuf_tailroom(frame) < missing) return false;
  copy_out(frame, frame->data_len, data(frame, frame->data_len), missing);
  frame->data_len = static_cast<std::uint16_t>(wanted);
  std::uint32_t skip = missing;
  while (frame->next != nullptr && frame->next->data_len <= skip) {
    rte_mbuf* empty = frame->next;
    skip -= empty->data_len;
    frame->next = empty->next;
    --frame->nb_segs;
    rte_pktmbuf_free_seg(empty);
  }
  if (frame->next != nullptr && skip > 0) {
    frame->next->data_off = static_cast<std::uint16_t>(frame->next->data_off + skip);
    frame->next->data_len = static_cast<std::uint16_t>(frame->next->data_len - skip);
  }
  return true;
}

void append(rte_mbuf* head, rte_mbuf* tail) {
  rte_mbuf* last = rte_pktmbuf_lastseg(head);
  last->next = tail;
  head->nb_segs = static_cast<std::uint16_t>(head->nb_segs + tail->nb_segs);
  head->pkt_len += tail->pkt_len;
  tail->pkt_len = tail->data_len;
}

void copy_out(const rte_mbuf* frame, std::uint32_t offset, void* to, std::uint32_t octets) {
  auto* target = static_cast<std::uint8_t*>(to);
  while (offset >= frame->data_len && frame->next != nullptr) {
    offset -= frame->data_len;
    frame = frame->next;
  }
  while (octets > 0) {
    const std::uint32_t part = std::min<std::uint32_t>(octets, frame->data_len - offset);
    std::memcpy(target, data(frame, offset), part);
    target += part;
    octets -= part;
    offset = 0;
    frame = frame->next;
  }
}

}  // namespace lw::packet
