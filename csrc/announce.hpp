// Announcements of own addresses at start: gratuitous ARP (RFC 5227 section 2.3), unsolicited NA (RFC 4861 section
// 7.2.6) and MLD reports.
#pragma once

#include <cstdint>

#include "stage.hpp"

namespace lw {

class Announcer {
 public:
  void start(std::uint64_t now_ns);
  // Sends what is due.
  void step(Context& ctx);

 private:
  bool running_{};
  std::uint64_t started_ns_{};
  unsigned arp_sent_{}, na_sent_{}, mld_sent_{};
};

}  // namespace lw
