// Every engine of a filter says the same: libpcap's interpreter, which all the world uses, is the judge over what
// librte_bpf makes of the same program, interpreted and by JIT, on frames in one buffer and in pieces.
#include <rte_mbuf.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "filter.hpp"
#include "lane_program.hpp"
#include "lane_rig.hpp"
#include "packet.hpp"

namespace {

constexpr const char* kTexts[]{
    "",
    "ip",
    "ip6",
    "arp",
    "not arp",
    "ip or ip6",
    "icmp or icmp6",
    "ip6 proto 4",
    "ip6 protochain 4",
    "udp port 53",
    "tcp portrange 1024-2047",
    "src port 53 or dst port 1024",
    "host 203.0.113.1",
    "net 203.0.113.0/24 and not udp",
    "src net 198.51.100.0/24 and dst host 203.0.113.10",
    "ip6 host 2001:db8:aa::1",
    "dst net 2001:db8:aa::/48 and ip6 proto 58",
    "ether host 02:00:00:00:04:01",
    "ether multicast or broadcast",
    "ip[8] > 32 and ip[6:2] & 0x3fff != 0",
    "icmp[icmptype] = icmp-echo",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "ip[0] & 0xf > 5",
    "greater 100",
    "less 100 and ip proto 17",
    "len - 14 = ip[2:2]",
    "ip[10:2] * 3 % 7 = 1 or ip[4:2] / 16 = 2",
    "ip[8] << 2 | ip[9] >> 1 = 0x80",
    "vlan",
    "ether[1000] = 0",
    "ip[ip[8]] ^ ip[9] = 3",
    "ip6[6] = 4 and ip6[40] & 0xf0 = 0x40 and ip6[49] = 17",
};

// What the random expressions are made of.
constexpr const char* kParts[]{
    "ip",
    "ip6",
    "arp",
    "icmp",
    "icmp6",
    "udp",
    "tcp",
    "sctp",
    "ip proto 47",
    "ip6 proto 44",
    "ip6 proto 60",
    "port 53",
    "src port 1024",
    "portrange 1000-1100",
    "host 203.0.113.2",
    "net 192.0.2.0/24",
    "ip6 net 2001:db8::/32",
    "ether multicast",
    "ether src 02:00:00:00:06:fe",
    "greater 90",
    "less 200",
    "ip multicast",
    "ip6 multicast",
};
constexpr const char* kFields[]{
    "ether[14]", "ether[12:2]", "ip[0]",   "ip[1]",     "ip[2:2]", "ip[6:2]",  "ip[8]",           "ip[9]",
    "ip[12:4]",  "ip[16:4]",    "icmp[0]", "icmp[4:2]", "tcp[13]", "tcp[0:2]", "tcp[4:4]",        "udp[2:2]",
    "udp[4]",    "ip6[0:4]",    "ip6[6]",  "ip6[7]",    "ip6[40]", "len",      "ip[ip[0] & 0xf]", "ether[len - 1]",
};
constexpr const char* kOperators[]{"+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>"};
constexpr const char* kRelations[]{"=", "!=", "<", ">", "<=", ">="};
constexpr const char* kNumbers[]{"0",     "1",       "2",          "3",          "4",         "8",      "17",
                                 "64",    "127",     "128",        "255",        "256",       "0x1fff", "0x8000",
                                 "65535", "0x10000", "0x7fffffff", "0x80000000", "0xffffffff"};
constexpr unsigned kRandom = 600;

class Expressions {
 public:
  std::string next(unsigned depth = 3) {
    const unsigned kind = random_() % 8;
    if (depth == 0 || kind < 2) return of(kParts);
    if (kind < 5) return arithmetic() + " " + of(kRelations) + " " + of(kNumbers);
    if (kind == 5) return "not (" + next(depth - 1) + ")";
    return "(" + next(depth - 1) + (kind == 6 ? ") and (" : ") or (") + next(depth - 1) + ")";
  }

 private:
  template <std::size_t n>
  std::string of(const char* const (&all)[n]) {
    return all[random_() % n];
  }
  std::string arithmetic() {
    const std::string field = of(kFields);
    if (random_() % 2 == 0) return field;
    const std::string by = of(kOperators);
    // libpcap refuses a division by a constant 0 and shifts by more than 31; by a field it divides at run time.
    const bool narrow = by == "<<" || by == ">>" || by == "/" || by == "%";
    return field + " " + by + " " + (random_() % 3 == 0 && !narrow ? of(kFields) : narrow ? "3" : of(kNumbers));
  }
  std::minstd_rand random_;  // the same expressions in every run
};

class Pool {
 public:
  Pool() : pool_(rte_pktmbuf_pool_create("filters", 64, 0, lw::packet::kPrivate, 10240 + 128, SOCKET_ID_ANY)) {
    if (pool_ == nullptr) rig::fail("no memory");
  }
  ~Pool() { rte_mempool_free(pool_); }
  // In two buffers, the first of `first` octets.
  rte_mbuf* frame(std::span<const std::uint8_t> octets, std::size_t first) {
    rte_mbuf* head = buffer(octets.first(first));
    if (first < octets.size()) lw::packet::append(head, buffer(octets.subspan(first)));
    return head;
  }

 private:
  rte_mbuf* buffer(std::span<const std::uint8_t> octets) {
    rte_mbuf* one = rte_pktmbuf_alloc(pool_);
    std::ranges::copy(octets, rte_pktmbuf_append(one, static_cast<std::uint16_t>(octets.size())));
    return one;
  }
  rte_mempool* pool_;
};

struct Trio {
  explicit Trio(const std::string& what)
      : text(what),
        judge(what, lw::Filter::Engine::libpcap),
        bytecode(what, lw::Filter::Engine::rte_bpf),
        jit(what, lw::Filter::Engine::jit) {}
  std::string text;
  lw::Filter judge, bytecode, jit;
  unsigned passed{}, refused{};

  void run(rte_mbuf* frame, std::span<const std::uint8_t> octets, std::size_t first) {
    const bool expected = judge.passes(frame);
    ++(expected ? passed : refused);
    if (bytecode.passes(frame) == expected && jit.passes(frame) == expected) return;
    rig::fail("\"" + text + "\": libpcap " + (expected ? "passes" : "refuses") +
              ", librte_bpf does not: " + rig::hex(octets) + " cut at " + std::to_string(first));
  }
};

// Whole, in pieces at places of interest, and short of the octets that filters look for.
void run(Trio& trio, Pool& pool, std::span<const std::uint8_t> octets) {
  for (const std::size_t first : {octets.size(), std::size_t{14}, std::size_t{15}, std::size_t{33}, std::size_t{55}}) {
    if (first > octets.size()) continue;
    rte_mbuf* frame = pool.frame(octets, first);
    trio.run(frame, octets, first);
    rte_pktmbuf_free(frame);
  }
  for (std::size_t n = 1; n < std::min<std::size_t>(octets.size(), 80); n += 3) {
    rte_mbuf* frame = pool.frame(octets.first(n), n);
    trio.run(frame, octets.first(n), n);
    rte_pktmbuf_free(frame);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::filesystem::path seeds = argc > 1 ? argv[1] : "../data/corpus/fuzz_lane";
  rig::start_eal("filter_engines");
  std::vector<Program> programs;
  for (const auto& entry : std::filesystem::directory_iterator(seeds)) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::vector<std::uint8_t> octets{std::istreambuf_iterator<char>(file), {}};
    programs.push_back(Program::parse(octets));
  }
  if (programs.empty()) rig::fail("no seeds");
  Pool pool;
  unsigned filters = 0, by_jit = 0, telling = 0;
  const auto compare = [&](const std::string& text) {
    Trio trio(text);
    ++filters;
    by_jit += trio.jit.engine() == lw::Filter::Engine::jit;
    for (const Program& program : programs) {
      for (const Step& step : program.steps) {
        if (!step.octets.empty()) run(trio, pool, step.octets);
      }
    }
    telling += trio.passed != 0 && trio.refused != 0;
  };
  for (const char* text : kTexts) compare(text);
  const bool all_by_jit = by_jit + 1 == std::size(kTexts);  // but for the one with protochain
  Expressions expressions;
  for (unsigned i = 0; i < kRandom;) {
    const std::string text = expressions.next();
    if (lw::Filter::fault(text)) continue;  // "expression rejects all packets" and the like
    compare(text);
    ++i;
  }
  std::printf("%u filters, %u of them by JIT, %u that passed some frames and refused others\n", filters, by_jit,
              telling);
  return all_by_jit ? 0 : 1;
}
