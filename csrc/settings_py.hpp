// The settings dict of the control side as the core's value.
#pragma once

#include <pybind11/pybind11.h>

#include "settings.hpp"

namespace lw {

// Throws a ValueError that names the key ("v4.mtu"). A side whose "mac" is None gets zeros: the port's own comes later.
Settings settings_from(const pybind11::dict& dict);

Mac mac_from(const pybind11::bytes& octets);
pybind11::bytes bytes_of(const Mac& mac);

}  // namespace lw
