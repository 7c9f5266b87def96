// How a capture is asked for in one line of text.
#include <charconv>
#include <string_view>

#include "capture.hpp"

namespace lw {
namespace {

std::string decoded(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    const char* digits = text.data() + i + 1;
    if (text.size() - i < 3 || std::from_chars(digits, digits + 2, value, 16).ptr != digits + 2 || value == 0) {
      throw CaptureError("a % without two hexadecimal digits behind it");
    }
    out += static_cast<char>(value);
    i += 2;
  }
  return out;
}

template <class T>
T number(std::string_view name, std::string_view text, T least, T most) {
  T value = 0;
  const char* end = text.data() + text.size();
  const auto [stopped, fault] = std::from_chars(text.data(), end, value);
  if (fault == std::errc{} && stopped == end && value >= least && value <= most) return value;
  throw CaptureError(std::string(name) + " is a number from " + std::to_string(least) + " to " + std::to_string(most));
}

void set(CaptureRequest& request, std::string_view name, std::string_view value) {
  using Wide = std::uint64_t;
  if (name == "file") {
    request.file = decoded(value);
  } else if (name == "filter") {
    request.filter = decoded(value);
  } else if (name == "packets") {
    request.packets = number(name, value, Wide{1}, CaptureRequest::kMostPackets);
  } else if (name == "milliseconds") {
    request.milliseconds = number(name, value, Wide{1}, CaptureRequest::kMostMilliseconds);
  } else if (name == "snap") {
    request.snap = number(name, value, CaptureRequest::kLeastSnap, CaptureRequest::kMostSnap);
  } else {
    throw CaptureError("a capture has no " + std::string(name));
  }
}

}  // namespace

CaptureRequest CaptureRequest::parse(const std::string& text) {
  CaptureRequest request;
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view one = rest.substr(0, rest.find('&'));
    rest.remove_prefix(one.size() == rest.size() ? rest.size() : one.size() + 1);
    const std::size_t equals = one.find('=');
    if (equals == std::string_view::npos) throw CaptureError("a parameter is NAME=VALUE");
    set(request, one.substr(0, equals), one.substr(equals + 1));
  }
  if (request.file.empty() || request.file.front() != '/') throw CaptureError("file is an absolute path");
  return request;
}

}  // namespace lw
