// rte_bpf_convert is marked experimental in every release since 21.11, and unchanged in all of them.
#define ALLOW_EXPERIMENTAL_API
#include "filter.hpp"

#include <pcap/pcap.h>
#include <rte_bpf.h>
#include <rte_malloc.h>

#include <algorithm>
#include <array>
#include <limits>
#include <span>
#include <vector>

#include "eal.hpp"
#include "packet.hpp"

namespace lw {

namespace {

constexpr int kSnapLength = 262144;  // libpcap's greatest: a filter never passes "0 octets" of a frame

// libpcap's program. A text may hold host and port names: then this asks the resolver, so it is no work for a worker.
class Compiled {
 public:
  explicit Compiled(const std::string& text) {
    if (text.find('\0') != std::string::npos) throw FilterError("the text holds a zero octet");
    const std::unique_ptr<pcap_t, decltype(&pcap_close)> handle(pcap_open_dead(DLT_EN10MB, kSnapLength), &pcap_close);
    if (handle == nullptr) throw FilterError("no memory");
    if (pcap_compile(handle.get(), &program_, text.c_str(), 1, PCAP_NETMASK_UNKNOWN) != 0) {
      throw FilterError(pcap_geterr(handle.get()));
    }
  }
  ~Compiled() { pcap_freecode(&program_); }
  Compiled(const Compiled&) = delete;
  Compiled& operator=(const Compiled&) = delete;
  const bpf_program& get() const { return program_; }

 private:
  bpf_program program_{};
};

struct BpfFree {
  void operator()(rte_bpf* bpf) const { rte_bpf_destroy(bpf); }
};
using Bpf = std::unique_ptr<rte_bpf, BpfFree>;

// What rte_bpf_convert of DPDK 22.11 makes has to be mended in two places before it may run. Both were found by
// tests/native/filter_engines.cpp, which compares all engines; where DPDK is right there is nothing to mend.
using Instructions = std::span<const ebpf_insn>;
constexpr std::uint8_t kX = EBPF_REG_7;     // where rte_bpf_convert keeps the index register
constexpr std::uint8_t kFree = EBPF_REG_9;  // it uses 0, 1 and 6 to 8

// An octet loaded relative to the index, as in "icmp[0]": it takes the accumulator for the index.
bool loads_by_accumulator(const ebpf_insn& one) {
  return BPF_CLASS(one.code) == BPF_LD && BPF_MODE(one.code) == BPF_IND && one.src_reg == EBPF_REG_0;
}

// "Jump if set" with a constant of eight bits, as in "ether multicast": the x86 JIT writes a TEST with an immediate of
// one octet, which x86 does not have, so it takes three octets of the code behind for its own, and the processor runs
// astray.
bool tests_octet(const ebpf_insn& one) {
  return one.code == (BPF_JMP | BPF_JSET | BPF_K) && one.imm == static_cast<std::int8_t>(one.imm);
}

bool jumps(const ebpf_insn& one) {
  return BPF_CLASS(one.code) == BPF_JMP && BPF_OP(one.code) != EBPF_EXIT && BPF_OP(one.code) != EBPF_CALL;
}

std::vector<ebpf_insn> mended(Instructions code) {
  std::vector<std::size_t> place{0};  // of each instruction in the new code
  for (const ebpf_insn& one : code) place.push_back(place.back() + (tests_octet(one) ? 2 : 1));
  std::vector<ebpf_insn> out;
  for (std::size_t i = 0; i < code.size(); ++i) {
    ebpf_insn one = code[i];
    if (jumps(one)) {
      one.off = static_cast<std::int16_t>(place[i + 1 + static_cast<std::size_t>(one.off)] - place[i + 1]);
    }
    if (loads_by_accumulator(one)) one.src_reg = kX;
    if (tests_octet(one)) {
      out.push_back({.code = EBPF_ALU64 | EBPF_MOV | BPF_K, .dst_reg = kFree, .src_reg = 0, .off = 0, .imm = one.imm});
      one.code = BPF_JMP | BPF_JSET | BPF_X;
      one.src_reg = kFree;
      one.imm = 0;
    }
    out.push_back(one);
  }
  return out;
}

// Null: librte_bpf cannot run it.
Bpf load(const bpf_program& program) {
  if (!Eal::running()) return nullptr;
  const std::unique_ptr<rte_bpf_prm, decltype(&rte_free)> translated(rte_bpf_convert(&program), &rte_free);
  if (translated == nullptr) return nullptr;
  const auto code = mended({translated->ins, translated->nb_ins});
  if (code.size() > std::numeric_limits<std::int16_t>::max()) return nullptr;  // no jump could reach so far
  rte_bpf_prm changed = *translated;
  changed.ins = code.data();
  changed.nb_ins = static_cast<std::uint32_t>(code.size());
  return Bpf(rte_bpf_load(&changed));
}

}  // namespace

struct Filter::Program {
  Compiled compiled;
  Bpf bpf;
};

Filter::Filter(const std::string& text, Engine best) : program_(new Program{Compiled(text), nullptr}) {
  if (best == Engine::libpcap) return;
  program_->bpf = load(program_->compiled.get());
  if (program_->bpf == nullptr) return;
  engine_ = Engine::rte_bpf;
  rte_bpf_jit jit{};
  if (best != Engine::jit || rte_bpf_get_jit(program_->bpf.get(), &jit) != 0 || jit.func == nullptr) return;
  engine_ = Engine::jit;
  run_ = jit.func;
}

Filter::~Filter() = default;

std::optional<std::string> Filter::fault(const std::string& text) {
  try {
    const Compiled compiled(text);
    return std::nullopt;
  } catch (const FilterError& error) {
    return error.what();
  }
}

bool Filter::passes_offline(const std::string& text, const std::uint8_t* frame, std::uint32_t length) {
  const Compiled compiled(text);
  return bpf_filter(compiled.get().bf_insns, frame, length, length) != 0;
}

bool Filter::interpret(rte_mbuf* frame) const {
  if (program_->bpf != nullptr) return rte_bpf_exec(program_->bpf.get(), frame) != 0;
  const bpf_insn* code = program_->compiled.get().bf_insns;
  const std::uint32_t length = packet::length(frame);
  if (frame->nb_segs == 1) return bpf_filter(code, packet::data(frame), length, length) != 0;
  // The longest frame that a port takes, with room to spare; beyond it a filter reads as beyond the frame's end.
  std::array<std::uint8_t, 16384> octets;
  const std::uint32_t n = std::min<std::uint32_t>(length, octets.size());
  packet::copy_out(frame, 0, octets.data(), n);
  return bpf_filter(code, octets.data(), length, n) != 0;
}

}  // namespace lw
