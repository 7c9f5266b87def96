// A rule by which a device spreads softwire packets by the IPv4 header inside, for devices whose RSS has no level.
#pragma once

#include <cstdint>
#include <string>

namespace lw::rss_inner {

// Empty: the device would take the rule. Else why not.
std::string obstacle(std::uint16_t port, std::uint16_t queues);
// The same, and the rule is set. The port has been started.
std::string set(std::uint16_t port, std::uint16_t queues);

}  // namespace lw::rss_inner
