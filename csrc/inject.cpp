#include "inject.hpp"

#include <cstring>
#include <stdexcept>
#include <string>

#include "headers.hpp"

namespace lw {

namespace {
[[noreturn]] void fail(std::size_t index, const std::string& what) {
  throw std::invalid_argument("packet " + std::to_string(index) + ": " + what);
}
}  // namespace

void Inject::check(std::span<const std::uint8_t> packets, std::span<const std::uint32_t> lengths) const {
  std::size_t at = 0;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    const std::uint32_t length = lengths[i];
    if (length > packets.size() - at) fail(i, "its length reaches beyond the octets given");
    if (length > longest_) {
      fail(i, std::to_string(length) + " octets; the IPv6 side takes " + std::to_string(longest_));
    }
    const std::uint8_t* ip = packets.data() + at;
    const bool whole =
        length >= ipv6::kHeader && ip[0] >> 4 == 6 && length == std::uint32_t{ipv6::kHeader} + ipv6::payload_length(ip);
    if (!whole) fail(i, "is no IPv6 packet of this length");
    at += length;
  }
  if (at != packets.size()) {
    throw std::invalid_argument("packets: " + std::to_string(packets.size() - at) + " octets belong to none of them");
  }
}

std::size_t Inject::send(std::span<const std::uint8_t> packets, std::span<const std::uint32_t> lengths) {
  check(packets, lengths);
  const std::scoped_lock lock(mutex_);
  const std::uint8_t* at = packets.data();
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    std::uint8_t* room = ring_.begin(lengths[i]);
    if (room == nullptr) return i;
    std::memcpy(room, at, lengths[i]);
    ring_.commit({});
    at += lengths[i];
  }
  return lengths.size();
}

}  // namespace lw
