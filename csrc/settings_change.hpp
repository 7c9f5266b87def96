// What stands between two settings of a running router: what cannot change, and what follows from a change.
#pragma once

#include <string>
#include <vector>

#include "settings.hpp"

namespace lw {

// Gives `next` what only the ports can tell, their MAC addresses. Returns the fields that a running router cannot
// change, by their names in the settings.
struct OwnMac {  // whether the MAC of a side comes from its port
  bool v4;
  bool v6;
};
std::vector<std::string> fixed_fields(const Settings& now, OwnMac own_now, Settings& next, OwnMac own_next);

// The sides whose next hop is another, or is known in another way.
std::vector<SideId> changed_next_hops(const Settings& before, const Settings& after);
// Own addresses came: neighbours have to hear of them.
bool announced_anew(const Settings& before, const Settings& after);

}  // namespace lw
