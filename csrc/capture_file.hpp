// The pcapng file of a capture: written by librte_pcapng, each packet with a comment of ours.
#pragma once

#include <cstdint>
#include <string>

struct rte_mbuf;
struct rte_pcapng;

namespace lw {

class CaptureFile {
 public:
  // Makes the file, or empties it. Throws CaptureError.
  CaptureFile(const std::string& path, const std::string& comment);
  ~CaptureFile();
  CaptureFile(const CaptureFile&) = delete;
  CaptureFile& operator=(const CaptureFile&) = delete;

  // What a CaptureTap has kept; takes it. False: it could not be written, error() says why.
  bool write(rte_mbuf** frames, unsigned n);
  static void let_go(rte_mbuf** frames, unsigned n);  // unwritten
  // Into the file's end, per port: frames that passed the filter, and those that were missed.
  bool write_totals(std::uint16_t port, std::uint64_t seen, std::uint64_t missed);

  std::uint64_t octets() const { return octets_; }
  const std::string& error() const { return error_; }

 private:
  std::uint64_t ns_of(std::uint64_t cycles) const;

  std::string error_;
  std::uint64_t octets_{};
  std::uint64_t opened_ns_;
  std::uint64_t opened_cycles_;
  int fd_;
  rte_pcapng* file_{};  // owns fd_
};

}  // namespace lw
