// The parse pass on the IPv4 side: spec section 3 downstream, steps 2 to 6.
#include "stage.hpp"

namespace lw {

namespace {

bool icmp_error_message(const Item& item) {
  const std::uint8_t* ip = inner(item);
  const std::uint16_t header = ipv4::header_length(ip);
  return ip[ipv4::kProtocol] == proto::kIcmp && packet::window(item.frame) > std::uint32_t{item.inner} + header &&
         icmp4::is_error(ip[header]);
}

// RFC 7596 section 8.1: the operator may refuse ICMPv4 from outside, or its errors above a rate.
Counter icmp_policy(Context& ctx, const Item& item) {
  if (!ctx.settings.icmp_incoming_v4) return Counter::drop_icmp_policy;
  if (icmp_error_message(item) && !ctx.shared.icmp4_incoming.take(ctx.settings.icmp_incoming_v4_rate, ctx.now_ns)) {
    return Counter::drop_icmp_rate;
  }
  return Counter::count_;
}

}  // namespace

bool parse4(Context& ctx, Item& item) {
  const auto end = [&](Counter reason) {
    drop(ctx, item, reason);
    return false;
  };
  if (const Counter fault = check_ipv4(item.frame, 0); fault != Counter::count_) return end(fault);
  take_ipv4(item);
  const std::uint8_t* ip = packet::data(item.frame);
  const Ipv4 source = ipv4::source(ip), destination = ipv4::destination(ip);
  if (martian_source(source) || martian_destination(destination) || softwire_only(source) ||
      softwire_only(destination)) {
    return end(Counter::drop_v4_martian);
  }
  if (ipv4::header_length(ip) != ipv4::kHeader) {
    if (const Counter fault = check_ipv4_options(ctx.settings, ip); fault != Counter::count_) return end(fault);
  }
  if (is_own_ipv4(ctx.settings, destination)) {
    item.task = Task::local4;
    return true;
  }
  if (ip[ipv4::kProtocol] == proto::kIcmp) {
    if (const Counter fault = icmp_policy(ctx, item); fault != Counter::count_) return end(fault);
  }
  return make_key(ctx, item, Direction::downstream);
}

}  // namespace lw
