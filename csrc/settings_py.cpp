#include "settings_py.hpp"

#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "filter.hpp"

namespace lw {
namespace py = pybind11;
namespace {

// One dict of the settings and the way to it, for messages.
class Section {
 public:
  Section(py::dict dict, std::string path) : dict_(std::move(dict)), path_(std::move(path)) {}

  [[noreturn]] void fail(const char* key, const std::string& what) const {
    throw py::value_error("settings: " + where(key) + ": " + what);
  }
  py::object get(const char* key) const {
    if (!dict_.contains(key)) fail(key, "is missing");
    return dict_[key];
  }
  bool absent(const char* key) const { return !dict_.contains(key); }
  bool null(const char* key) const { return get(key).is_none(); }
  Section section(const char* key) const {
    const py::object value = get(key);
    if (!py::isinstance<py::dict>(value)) fail(key, "has to be a dict");
    return {py::reinterpret_borrow<py::dict>(value), where(key)};
  }
  py::sequence list(const char* key) const {
    const py::object value = get(key);
    if (!py::isinstance<py::list>(value) && !py::isinstance<py::tuple>(value)) fail(key, "has to be a list");
    return py::reinterpret_borrow<py::sequence>(value);
  }
  bool flag(const char* key) const {
    const py::object value = get(key);
    if (!py::isinstance<py::bool_>(value)) fail(key, "has to be a bool");
    return value.cast<bool>();
  }
  std::string_view text(const char* key) const {
    const py::object value = get(key);
    if (!py::isinstance<py::str>(value)) fail(key, "has to be a str");
    return py::reinterpret_borrow<py::str>(value).cast<std::string_view>();
  }
  template <class T>
  T number(const char* key, std::uint64_t most = std::numeric_limits<T>::max()) const {
    return number_in<T>(key, get(key), most);
  }
  template <class T>
  T number_in(const char* key, const py::handle& value, std::uint64_t most = std::numeric_limits<T>::max()) const {
    if (!py::isinstance<py::int_>(value) || py::isinstance<py::bool_>(value)) fail(key, "has to be an int");
    int overflow = 0;
    const long long number = PyLong_AsLongLongAndOverflow(value.ptr(), &overflow);
    if (overflow != 0 || number < 0 || static_cast<std::uint64_t>(number) > most) fail(key, "is out of range");
    return static_cast<T>(number);
  }
  std::uint64_t nanoseconds(const char* key, const py::handle& value) const {
    const double seconds = PyFloat_AsDouble(value.ptr());
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
    if (!(seconds >= 0 && seconds < 1e9)) fail(key, "is out of range");
    return static_cast<std::uint64_t>(seconds * 1e9);
  }
  template <class T>
  T octets(const char* key, const py::handle& value) const {
    if (!py::isinstance<py::bytes>(value)) fail(key, "has to be bytes");
    const std::string_view text = py::reinterpret_borrow<py::bytes>(value);
    if (text.size() != sizeof(T)) fail(key, "has to be " + std::to_string(sizeof(T)) + " octets");
    return load<T>(text.data());
  }
  Ipv4 ipv4(const char* key, const py::handle& value) const { return octets<Be32>(key, value).host(); }

 private:
  std::string where(const char* key) const { return path_.empty() ? key : path_ + "." + key; }

  py::dict dict_;
  std::string path_;
};

template <class Address, class Read>
std::vector<Address> prefixes(const Section& side, std::uint64_t longest, Read read) {
  std::vector<Address> all;
  for (const py::handle item : side.list("addresses")) {
    if (!py::isinstance<py::sequence>(item) || py::len(item) != 2)
      side.fail("addresses", "has to hold (bytes, int) pairs");
    const auto pair = py::reinterpret_borrow<py::sequence>(item);
    all.push_back({read(pair[0]), side.number_in<std::uint8_t>("addresses", pair[1], longest)});
  }
  if (all.empty()) side.fail("addresses", "has to hold one address at least");
  return all;
}

std::shared_ptr<const Filter> filter_from(const Section& side, const char* key) {
  if (side.absent(key) || side.null(key)) return nullptr;
  try {
    return std::make_shared<const Filter>(std::string(side.text(key)));
  } catch (const FilterError& error) {
    side.fail(key, std::string("is no pcap filter: ") + error.what());
  }
}

Side side_from(const Section& from) {
  Side side;
  if (!from.null("mac")) side.mac = from.octets<Mac>("mac", from.get("mac"));
  if (!from.null("vlan")) side.vlan = from.number<std::uint16_t>("vlan", 4095);
  side.mtu = from.number<std::uint16_t>("mtu");
  side.ingress_filter = filter_from(from, "ingress_filter");
  side.egress_filter = filter_from(from, "egress_filter");
  if (!from.null("next_hop_mac")) side.next_hop_mac = from.octets<Mac>("next_hop_mac", from.get("next_hop_mac"));
  return side;
}

void read_sides(const Section& all, Settings& settings) {
  const Section v4 = all.section("v4");
  const Section v6 = all.section("v6");
  settings.v4 = side_from(v4);
  settings.v6 = side_from(v6);
  settings.one_port = all.flag("one_port");
  settings.v4_addresses =
      prefixes<Address4>(v4, 32, [&v4](const py::handle& value) { return v4.ipv4("addresses", value); });
  settings.v6_addresses =
      prefixes<Address6>(v6, 128, [&v6](const py::handle& value) { return v6.octets<Ipv6>("addresses", value); });
  if (!v4.null("next_hop")) settings.v4_next_hop = v4.ipv4("next_hop", v4.get("next_hop"));
  if (!v6.null("next_hop")) settings.v6_next_hop = v6.octets<Ipv6>("next_hop", v6.get("next_hop"));
}

template <class Value, std::size_t n>
Value chosen(const Section& all, const char* key, const std::pair<std::string_view, Value> (&choices)[n]) {
  const std::string_view text = all.text(key);
  std::string names;
  for (const auto& [name, value] : choices) {
    if (name == text) return value;
    names += (names.empty() ? "" : " | ") + std::string(name);
  }
  all.fail(key, "has to be " + names);
}

void read_softwire(const Section& all, Settings& settings) {
  for (const py::handle address : all.list("br_addresses")) {
    settings.br_addresses.push_back(all.octets<Ipv6>("br_addresses", address));
  }
  if (settings.br_addresses.empty()) all.fail("br_addresses", "has to hold one address at least");
  if (!all.null("tunnel_payload_mtu")) settings.tunnel_payload_mtu = all.number<std::uint16_t>("tunnel_payload_mtu");
  settings.hop_limit = all.number<std::uint8_t>("hop_limit");
  if (!all.null("encap_limit")) settings.encap_limit = all.number<std::uint8_t>("encap_limit");
  if (py::isinstance<py::int_>(all.get("dscp"))) {
    settings.dscp = DscpMode::pipe;
    settings.pipe_dscp = all.number<std::uint8_t>("dscp", 63);
  } else {
    settings.dscp = chosen<DscpMode>(all, "dscp", {{"copy", DscpMode::copy}});
  }
  settings.ecn = chosen<EcnMode>(all, "ecn", {{"normal", EcnMode::normal}, {"compatibility", EcnMode::compatibility}});
  if (py::isinstance<py::int_>(all.get("flow_label"))) {
    settings.flow_label_mode = FlowLabelMode::fixed;
    settings.flow_label = all.number<std::uint32_t>("flow_label", 0xfffff);
  } else {
    settings.flow_label_mode = chosen<FlowLabelMode>(all, "flow_label", {{"hash", FlowLabelMode::hash}});
  }
  settings.pmtud = all.flag("pmtud");
  settings.hairpin = chosen<Hairpin>(
      all, "hairpin", {{"local", Hairpin::local}, {"external", Hairpin::external}, {"drop", Hairpin::drop}});
  if (!all.null("tcp_mss")) settings.tcp_mss = all.number<std::uint16_t>("tcp_mss");
  settings.proxy_arp = all.flag("proxy_arp");
}

void read_limits(const Section& all, Settings& settings) {
  const Section reassembly = all.section("reassembly");
  settings.fragments.max_packets = reassembly.number<std::uint32_t>("max_packets");
  settings.fragments.max_fragments = reassembly.number<std::uint32_t>("max_fragments");
  settings.fragments.timeout_ns = reassembly.nanoseconds("timeout_s", reassembly.get("timeout_s"));
  const Section options = all.section("ipv4_options");
  settings.options = {options.flag("source_route"), options.flag("record_route"), options.flag("timestamp"),
                      options.flag("router_alert")};
}

// Two rates a second: of the whole router, of one subscriber.
void read_pcp(const Section& pcp, Settings& settings) {
  constexpr std::uint64_t kSecond = 1'000'000'000;
  settings.pcp = pcp.flag("enabled");
  settings.pcp_addresses.clear();
  for (const py::handle address : pcp.list("addresses")) {
    settings.pcp_addresses.push_back(pcp.ipv4("addresses", address));
  }
  const py::sequence limit = pcp.list("rate_limit");
  if (py::len(limit) != 2) pcp.fail("rate_limit", "has to hold 2 values");
  settings.pcp_rate = {pcp.number_in<std::uint32_t>("rate_limit", limit[0]), kSecond};
  settings.pcp_per_subscriber = {pcp.number_in<std::uint32_t>("rate_limit", limit[1]), kSecond};
}

void read_events(const Section& events, Settings& settings) {
  settings.miss_events = events.flag("miss");
  settings.move_events = events.flag("move");
  settings.hold_code5_ns = events.number<std::uint64_t>("hold_code5_ms", 60'000) * 1'000'000;
}

Rate rate_from(const Section& icmp, const char* key, std::size_t length) {
  const py::sequence parts = icmp.list(key);
  if (py::len(parts) != length) icmp.fail(key, "has to hold " + std::to_string(length) + " values");
  return {icmp.number_in<std::uint32_t>(key, parts[0]), icmp.nanoseconds(key, parts[1])};
}

void read_icmp(const Section& icmp, Settings& settings) {
  settings.icmp_incoming_v4 = icmp.flag("incoming_v4");
  if (!icmp.null("incoming_v4_rate")) settings.icmp_incoming_v4_rate = rate_from(icmp, "incoming_v4_rate", 2);
  settings.icmp_incoming_v6 = icmp.flag("incoming_v6");
  settings.icmp_unbound_v4 = icmp.flag("unbound_v4");
  settings.icmp_unknown_b4_v6 = icmp.flag("unknown_b4_v6");
  settings.icmp_rate = rate_from(icmp, "rate_limit", 3);
  settings.icmp_per_source = icmp.number_in<std::uint32_t>("rate_limit", icmp.list("rate_limit")[2]);
  settings.icmp_error_tos.reset();
  if (!icmp.null("error_tos")) settings.icmp_error_tos = icmp.number<std::uint8_t>("error_tos");
}

}  // namespace

Settings settings_from(const py::dict& dict) {
  const Section all(dict, "");
  Settings settings;
  read_sides(all, settings);
  read_softwire(all, settings);
  read_limits(all, settings);
  read_icmp(all.section("icmp"), settings);
  settings.subscriber_mask = all.number<std::uint8_t>("subscriber_mask", 128);
  read_pcp(all.section("pcp"), settings);
  read_events(all.section("events"), settings);
  return settings;
}

Mac mac_from(const py::bytes& octets) {
  const std::string_view text = octets;
  if (text.size() != sizeof(Mac)) throw py::value_error("a MAC address is 6 octets");
  return load<Mac>(text.data());
}

py::bytes bytes_of(const Mac& mac) { return {reinterpret_cast<const char*>(mac.octets.data()), mac.octets.size()}; }

}  // namespace lw
