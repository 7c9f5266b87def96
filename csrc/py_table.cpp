// The binding table for Python: declarations and conversions, no rules.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <bit>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "binding_table.hpp"
#include "table_py.hpp"

namespace py = pybind11;
using namespace py::literals;

namespace lw {

namespace {

// No forcecast: an array of another dtype is a TypeError, not a table of nonsense.
using Rows = py::array_t<BindingRow, py::array::c_style>;
using Addresses = py::array_t<std::uint32_t, py::array::c_style>;
using Psids = py::array_t<std::uint16_t, py::array::c_style>;

Source source_of(int value) {
  if (value < 0 || value > static_cast<int>(Source::pcp)) {
    throw py::value_error("no such source of bindings: " + std::to_string(value));
  }
  return static_cast<Source>(value);
}

Ipv6 address6(const std::string& octets) {
  if (octets.size() != sizeof(Ipv6)) throw py::value_error("an IPv6 address has 16 octets");
  return load<Ipv6>(octets.data());
}
template <class T>
py::bytes octets_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

py::dict report_of(const Report& report) {
  py::list refused;
  for (const Refusal& refusal : report.refused) {
    refused.append(py::make_tuple(refusal.index, std::string(name_of(refusal.reason))));
  }
  return py::dict("added"_a = report.added, "replaced"_a = report.replaced, "unchanged"_a = report.unchanged,
                  "removed"_a = report.removed, "refused"_a = refused);
}

std::vector<BindingKey> keys_of(const Addresses& ipv4, const Psids& psid) {
  if (ipv4.ndim() != 1 || psid.ndim() != 1 || ipv4.size() != psid.size()) {
    throw py::value_error("addresses and PSIDs come in two arrays of one length");
  }
  std::vector<BindingKey> keys(static_cast<std::size_t>(ipv4.size()));
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = {ipv4.data()[i], psid.data()[i]};
  return keys;
}

// The vector becomes the array: no second copy.
template <class T>
py::array_t<T> array_of(std::vector<T>&& values) {
  auto* kept = new std::vector<T>(std::move(values));
  const py::capsule owner(kept, [](void* vector) { delete static_cast<std::vector<T>*>(vector); });
  return py::array_t<T>(static_cast<py::ssize_t>(kept->size()), kept->data(), owner);
}

py::dict bind(BindingTable& table, const Rows& rows, int source, std::uint32_t generation, bool validate_only) {
  const Source from = source_of(source);
  const std::span<const BindingRow> all(rows.data(), static_cast<std::size_t>(rows.size()));
  Report report;
  {
    const py::gil_scoped_release unlocked;
    report = validate_only ? table.judge(all, from) : table.bind(all, from, generation);
  }
  return report_of(report);
}

py::dict unbind(BindingTable& table, const Addresses& ipv4, const Psids& psid, int source) {
  const Source from = source_of(source);
  const std::vector<BindingKey> keys = keys_of(ipv4, psid);
  Report report;
  {
    const py::gil_scoped_release unlocked;
    report = table.unbind(keys, from);
  }
  return report_of(report);
}

py::array_t<BindingRow> sweep(BindingTable& table, int source, std::uint32_t generation) {
  const Source from = source_of(source);
  std::vector<BindingRow> removed;
  {
    const py::gil_scoped_release unlocked;
    removed = table.sweep(from, generation);
  }
  return array_of(std::move(removed));
}

std::tuple<py::array_t<BindingRow>, py::array_t<std::uint8_t>> holders(const BindingTable& table, const Addresses& ipv4,
                                                                       const Psids& psid) {
  const std::vector<BindingKey> keys = keys_of(ipv4, psid);
  const auto n = static_cast<py::ssize_t>(keys.size());
  py::array_t<BindingRow> rows(n);
  py::array_t<std::uint8_t> sources(n);
  BindingRow* const rows_at = rows.mutable_data();
  std::uint8_t* const sources_at = sources.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    table.holders(keys, rows_at, sources_at);
  }
  return {rows, sources};
}

// One key and one row in plain values: an array of one costs ten times as much as what is done with it.
std::tuple<int, py::bytes> holder(const BindingTable& table, std::uint32_t ipv4, std::uint16_t psid) {
  const BindingKey key{ipv4, psid};
  BindingRow row;
  std::uint8_t source = 0;
  {
    const py::gil_scoped_release unlocked;  // it waits for a writer
    table.holders({&key, 1}, &row, &source);
  }
  return {source, octets_of(row)};
}

// What was done; nothing if the row was refused.
std::optional<std::string> bind_one(BindingTable& table, const py::bytes& given, int source, std::uint32_t generation) {
  const std::string_view octets = given;
  if (octets.size() != sizeof(BindingRow)) throw py::value_error("a row of BINDING_ROW has 40 octets");
  const Source from = source_of(source);
  const auto row = load<BindingRow>(octets.data());
  Report report;
  {
    const py::gil_scoped_release unlocked;
    report = table.bind({&row, 1}, from, generation);
  }
  if (!report.ok()) return std::nullopt;
  return report.added > 0 ? "added" : report.replaced > 0 ? "replaced" : "unchanged";
}

using Addressed = std::optional<std::tuple<py::bytes, py::bytes>>;

Addressed find_key(const BindingTable& table, std::uint32_t ipv4, std::uint16_t psid) {
  const BindingTable::Visit visit(table);
  Softwire softwire;
  if (!table.find({ipv4, psid}, softwire)) return std::nullopt;
  return std::make_tuple(octets_of(softwire.b4), octets_of(softwire.br));
}

// No port: a protocol without ports, which reaches whole addresses only (DP-033).
Addressed find(const BindingTable& table, std::uint32_t ipv4, std::optional<std::uint16_t> port) {
  const AddressClass address = table.classify(ipv4);
  if (!port && address.use() != AddressUse::whole) return std::nullopt;
  const std::optional<std::uint16_t> psid = address.psid(port.value_or(0));
  return psid ? find_key(table, ipv4, *psid) : std::nullopt;
}

// The workers' way: bursts through find_bulk. Which keys are bound, then B4 and BR addresses as rows of 16 octets.
py::tuple find_keys(const BindingTable& table, const Addresses& ipv4, const Psids& psid) {
  const std::vector<BindingKey> keys = keys_of(ipv4, psid);
  const auto n = static_cast<py::ssize_t>(keys.size());
  py::array_t<bool> bound(n);
  py::array_t<std::uint8_t> b4({n, py::ssize_t{16}});
  py::array_t<std::uint8_t> br({n, py::ssize_t{16}});
  bool* bound_at = bound.mutable_data();
  std::uint8_t* b4_at = b4.mutable_data();
  std::uint8_t* br_at = br.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    const BindingTable::Visit visit(table);
    std::array<Softwire, BindingTable::kBulk> found;
    for (std::size_t first = 0; first < keys.size(); first += found.size()) {
      const auto burst = static_cast<unsigned>(std::min(found.size(), keys.size() - first));
      found.fill({});
      const std::uint64_t hits = table.find_bulk(keys.data() + first, burst, found.data());
      for (std::size_t i = 0; i < burst; ++i) {
        bound_at[first + i] = (hits >> i & 1) != 0;
        store(b4_at + 16 * (first + i), found[i].b4);
        store(br_at + 16 * (first + i), found[i].br);
      }
    }
  }
  return py::make_tuple(bound, b4, br);
}

std::tuple<int, int, int> classify(const BindingTable& table, std::uint32_t ipv4) {
  const AddressClass address = table.classify(ipv4);
  return {static_cast<int>(address.use()), address.params().offset, address.params().length};
}

py::array_t<BindingRow> dump(const BindingTable& table) {
  std::vector<BindingRow> rows;
  {
    const py::gil_scoped_release unlocked;
    rows = table.dump();
  }
  return array_of(std::move(rows));
}

using Chunk = std::tuple<py::array_t<BindingRow>, py::array_t<std::uint8_t>, std::size_t>;

Chunk dump_chunk(const BindingTable& table, std::size_t from, std::size_t limit) {
  std::vector<BindingRow> rows;
  std::vector<std::uint8_t> sources;
  std::size_t next = 0;
  {
    const py::gil_scoped_release unlocked;
    next = table.dump(from, limit, rows, sources);
  }
  return {array_of(std::move(rows)), array_of(std::move(sources)), next};
}

std::unique_ptr<BindingTable> make_table(std::size_t max_bindings, std::vector<std::uint32_t> own_v4,
                                         const std::vector<std::string>& own_v6, bool accounts, numa::Nodes nodes) {
  BindingTable::Own own{.v4 = std::move(own_v4), .v6 = {}};
  for (const std::string& octets : own_v6) own.v6.push_back(address6(octets));
  return std::make_unique<BindingTable>(max_bindings, std::move(own), accounts, std::move(nodes));
}

const char* name_of(cuckoo::Scan scan) { return scan == cuckoo::Scan::avx2 ? "avx2" : "portable"; }

void use_scan(const std::string& name) {
  for (const cuckoo::Scan scan : {cuckoo::Scan::portable, cuckoo::Scan::avx2}) {
    if (name == name_of(scan) && cuckoo::use(scan)) return;
  }
  throw py::value_error("no such way to search buckets on this CPU: " + name);
}

// For each of the 65,536 ports the PSID that it belongs to, -1 = nobody, as the data path computes it.
py::array_t<std::int32_t> port_set_psids(std::uint8_t offset, std::uint8_t length) {
  const PortSetParams params{.offset = offset, .length = length};
  if (!params.valid()) throw py::value_error("a + k is more than 16");
  const AddressClass address = AddressClass::from(params);
  py::array_t<std::int32_t> psids(0x10000);
  for (std::uint32_t port = 0; port < 0x10000; ++port) {
    const auto psid = address.psid(static_cast<std::uint16_t>(port));
    psids.mutable_data()[port] = psid ? *psid : -1;
  }
  return psids;
}

// The ports of one set, by the membership rule of port_set.hpp.
py::array_t<bool> port_set_members(std::uint8_t offset, std::uint8_t length, std::uint16_t psid) {
  const PortSetParams params{.offset = offset, .length = length};
  if (!params.valid()) throw py::value_error("a + k is more than 16");
  py::array_t<bool> members(0x10000);
  for (std::uint32_t port = 0; port < 0x10000; ++port) {
    members.mutable_data()[port] = params.member(psid, static_cast<std::uint16_t>(port));
  }
  return members;
}

}  // namespace

std::pair<py::array, std::size_t> counts_of(const BindingTable& table, std::size_t from, std::size_t limit) {
  if (table.accounts() == nullptr) throw std::runtime_error("bindings are not counted: the table has no accounts");
  std::vector<BindingCount> rows;
  std::size_t next = 0;
  {
    const py::gil_scoped_release unlocked;
    next = table.dump_counts(from, limit, rows);
  }
  return {array_of(std::move(rows)), next};
}

void register_table(py::module_& m) {
  PYBIND11_NUMPY_DTYPE(BindingRow, ipv4, psid, psid_len, psid_offset, b4, br);
  m.attr("BINDING_ROW") = py::dtype::of<BindingRow>();
  PYBIND11_NUMPY_DTYPE(BindingCount, ipv4, psid, psid_len, psid_offset, packets_in, octets_in, packets_out, octets_out);
  m.attr("BINDING_COUNT") = py::dtype::of<BindingCount>();
  m.attr("SOURCE_CONFIG") = static_cast<int>(Source::config);
  m.attr("SOURCE_OPERATOR") = static_cast<int>(Source::operator_);
  m.attr("SOURCE_DHCP") = static_cast<int>(Source::dhcp);
  m.attr("SOURCE_PCP") = static_cast<int>(Source::pcp);
  m.attr("NO_SOURCE") = static_cast<int>(kNoSource);
  m.attr("USE_NONE") = static_cast<int>(AddressUse::none);
  m.attr("USE_WHOLE") = static_cast<int>(AddressUse::whole);
  m.attr("USE_SHARED") = static_cast<int>(AddressUse::shared);
  m.def("table_scan", [] { return name_of(cuckoo::scan()); }, "How buckets of the binding table are searched.");
  m.def("use_table_scan", &use_scan, "name"_a,
        "Another way to search buckets, while nobody looks anything up: for tests.");
  m.def("port_set_psids", &port_set_psids, "offset"_a, "length"_a);
  m.def("port_set_members", &port_set_members, "offset"_a, "length"_a, "psid"_a);

  py::class_<BindingTable>(m, "BindingTable")
      .def(py::init(&make_table), "max_bindings"_a, "own_v4"_a = std::vector<std::uint32_t>{},
           "own_v6"_a = std::vector<std::string>{}, "accounts"_a = false, "nodes"_a = numa::Nodes{},
           "`nodes`: the NUMA nodes that its memory is to come from.")
      .def("bind", &bind, "rows"_a, "source"_a, "generation"_a, py::kw_only(), "validate_only"_a = false,
           "What was done, or with `validate_only` what would be.")
      .def("unbind", &unbind, "ipv4"_a, "psid"_a, "source"_a)
      .def("sweep", &sweep, "source"_a, "generation"_a, "Removes what was bound under other generations; its rows.")
      .def("holders", &holders, "ipv4"_a, "psid"_a, "Rows and sources of these keys; NO_SOURCE: not bound.")
      .def("holder", &holder, "ipv4"_a, "psid"_a, "Source and row, in octets, of one key; NO_SOURCE: not bound.")
      .def("bind_one", &bind_one, "row"_a, "source"_a, "generation"_a,
           "`bind` for one row in octets: added, replaced, unchanged, or None for refused.")
      .def("grow", &BindingTable::grow, "max_bindings"_a, py::call_guard<py::gil_scoped_release>(),
           "Room for more bindings, while readers go on. ValueError: less than now. MemoryError: nothing has changed.")
      .def("find", &find, "ipv4"_a, "port"_a)
      .def("find_key", &find_key, "ipv4"_a, "psid"_a)
      .def("find_keys", &find_keys, "ipv4"_a, "psid"_a)
      .def("classify", &classify, "ipv4"_a)
      .def("dump", &dump)
      .def("dump_chunk", &dump_chunk, "start"_a, "limit"_a)
      .def("counts_chunk", &counts_of, "start"_a, "limit"_a,
           "What went through the bindings (rows of BINDING_COUNT), and where to go on, 0 = that was all.")
      .def("__len__", [](const BindingTable& table) { return table.size(); })
      .def_property_readonly("size", [](const BindingTable& table) { return table.size(); })
      .def(
          "size_of", [](const BindingTable& table, int source) { return table.size(source_of(source)); }, "source"_a,
          "Bindings of one source.")
      .def_property_readonly("capacity", &BindingTable::capacity)
      .def_property_readonly("slots", &BindingTable::slots)
      .def_property_readonly("changes", &BindingTable::changes)
      .def_property_readonly("memory", &BindingTable::memory)
      .def_property_readonly("remarks", &BindingTable::remarks, "What an operator should know about its memory.")
      .def_property_readonly("reader_memory", &BindingTable::reader_memory);
}

}  // namespace lw
