// A watcher of one lane's packets: capture and explain. A lane without one pays a null test a burst.
#pragma once

#include "stage.hpp"

namespace lw {

class Tap {
 public:
  // The frame as it came, link header included. The tap may keep a copy of its own in item.copy.
  virtual void received(Item& item) noexcept = 0;
  // The item's end: an edge, a drop or a hold. item.frame is no longer the item's; the rest of it still stands.
  virtual void ended(Item& item, Counter way) noexcept = 0;
  // A frame that is about to leave, link header included.
  virtual void sent(SideId side, const rte_mbuf* frame) noexcept = 0;

 protected:
  ~Tap() = default;
};

}  // namespace lw
