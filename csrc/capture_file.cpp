// librte_pcapng is marked experimental in 22.11, as in every release since 21.11.
#define ALLOW_EXPERIMENTAL_API
#include "capture_file.hpp"

#include <fcntl.h>
#include <rte_cycles.h>
#include <rte_mbuf.h>
#include <rte_pcapng.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string_view>

#include "capture.hpp"
#include "capture_tap.hpp"
#include "counters.hpp"
#include "types.hpp"

namespace lw {
namespace {

// draft-ietf-opsawg-pcapng sections 4.3 and 3.5, in this host's byte order.
struct PacketBlock {
  std::uint32_t type{6};
  std::uint32_t octets{};
  std::uint32_t interface{};  // rte_pcapng_write_packets fills it in, by the buffer's port
  std::uint32_t ns_high{};
  std::uint32_t ns_low{};
  std::uint32_t captured{};
  std::uint32_t length{};
};
static_assert(sizeof(PacketBlock) == 28);
enum Option : std::uint16_t { kEnd = 0, kComment = 1, kFlags = 2, kQueue = 6 };
constexpr off_t kDateInTotals = 12;  // of an interface statistics block, section 4.6
constexpr std::uint32_t kInbound = 1, kOutbound = 2;
constexpr std::size_t kMostComment = CaptureTap::kRoomBehind - 64;

constexpr std::size_t padded(std::size_t octets) { return (octets + 3) & ~std::size_t{3}; }

std::uint64_t now_ns() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}

std::string comment_of(const CaptureTap::Mark& mark) {
  std::string text = mark.side == SideId::v4 ? "v4 " : "v6 ";
  if (mark.sent) return text + "sent";
  const CounterInfo& way = info(mark.way);
  text += way.name;
  if (way.requirement != "-") text.append(" (").append(way.requirement).append(")");
  return text.append(": ").append(way.help);
}

char* put_option(char* at, Option code, std::string_view value) {
  store(at, static_cast<std::uint16_t>(code));
  store(at + 2, static_cast<std::uint16_t>(value.size()));
  std::memcpy(at + 4, value.data(), value.size());
  return at + 4 + padded(value.size());
}

template <class T>
std::string_view octets_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

// Made here and not by rte_pcapng_copy, which takes no comment in 22.11, and which turns cycles into time by a state of
// the process that all workers would change at once: a time before its start throws it centuries ahead.
bool make_block(rte_mbuf* frame, const CaptureTap::Mark& mark, std::uint64_t ns) {
  const std::string text = comment_of(mark).substr(0, kMostComment);
  const std::uint32_t flags = mark.sent ? kOutbound : kInbound;
  const std::uint32_t queue = mark.queue;
  PacketBlock block{.ns_high = static_cast<std::uint32_t>(ns >> 32),
                    .ns_low = static_cast<std::uint32_t>(ns),
                    .captured = frame->pkt_len,
                    .length = mark.length};
  const std::size_t padding = padded(frame->pkt_len) - frame->pkt_len;
  const std::size_t behind = padding + 4 + padded(text.size()) + 2 * 8 + 4 + sizeof block.octets;
  char* at = rte_pktmbuf_append(frame, static_cast<std::uint16_t>(behind));
  char* start = rte_pktmbuf_prepend(frame, sizeof block);
  if (at == nullptr || start == nullptr || frame->nb_segs != 1) return false;
  std::memset(at, 0, behind);
  at = put_option(at + padding, kFlags, octets_of(flags));
  at = put_option(at, kQueue, octets_of(queue));
  at = put_option(at, kComment, text);
  at = put_option(at, kEnd, {});
  block.octets = frame->pkt_len;
  store(at, block.octets);
  store(start, block);
  return true;
}

}  // namespace

CaptureFile::CaptureFile(const std::string& path, const std::string& comment)
    : opened_ns_(now_ns()), opened_cycles_(rte_rdtsc()) {
  const auto fail = [&path](int error) { throw CaptureError(std::string(std::strerror(error)) + ": " + path); };
  // Not through somebody's symbolic link, and without waiting for a pipe's reader.
  fd_ = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
  if (fd_ < 0) fail(errno);
  struct stat what{};
  const bool regular = fstat(fd_, &what) == 0 && S_ISREG(what.st_mode);
  if (regular && ftruncate(fd_, 0) == 0) file_ = rte_pcapng_fdopen(fd_, "Linux", nullptr, "pylwaftr", comment.c_str());
  if (file_ != nullptr) return;
  const int error = errno;
  close(fd_);
  if (!regular) throw CaptureError("not a regular file: " + path);
  fail(error);
}

CaptureFile::~CaptureFile() { rte_pcapng_close(file_); }

std::uint64_t CaptureFile::ns_of(std::uint64_t cycles) const {
  const auto since = static_cast<__int128>(static_cast<std::int64_t>(cycles - opened_cycles_));
  return opened_ns_ + static_cast<std::uint64_t>(since * 1'000'000'000 / static_cast<__int128>(rte_get_tsc_hz()));
}

bool CaptureFile::write(rte_mbuf** frames, unsigned n) {
  std::uint64_t octets = 0;
  bool good = true;
  for (unsigned i = 0; i < n; ++i) {
    const CaptureTap::Mark& mark = CaptureTap::mark(frames[i]);
    good = make_block(frames[i], mark, ns_of(mark.cycles)) && good;
    octets += frames[i]->pkt_len;
  }
  errno = 0;
  const ssize_t written = good ? rte_pcapng_write_packets(file_, frames, static_cast<std::uint16_t>(n)) : -1;
  const int error = errno;
  let_go(frames, n);
  if (written == static_cast<ssize_t>(octets)) {
    octets_ += octets;
    return true;
  }
  error_ = error != 0 ? std::strerror(error) : "a packet was not written whole";
  return false;
}

void CaptureFile::let_go(rte_mbuf** frames, unsigned n) { rte_pktmbuf_free_bulk(frames, n); }

// The block is dated by the clock that make_block() keeps away from, so its date is set right.
bool CaptureFile::write_totals(std::uint16_t port, std::uint64_t seen, std::uint64_t missed) {
  const off_t block = lseek(fd_, 0, SEEK_CUR);
  const std::uint64_t now = now_ns();
  const std::array halves{static_cast<std::uint32_t>(now >> 32), static_cast<std::uint32_t>(now)};
  errno = 0;
  if (rte_pcapng_write_stats(file_, port, nullptr, opened_ns_, now, seen, missed) > 0 &&
      pwrite(fd_, halves.data(), sizeof halves, block + kDateInTotals) == sizeof halves) {
    return true;
  }
  error_ = errno != 0 ? std::strerror(errno) : "the totals were not written whole";
  return false;
}

}  // namespace lw
