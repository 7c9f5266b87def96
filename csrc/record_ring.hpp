// Records of octets from one thread to another: one producer, one consumer. Neither waits, locks or allocates; a ring
// that is full says so. Records lie contiguous, so they are written and read in place.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>

namespace lw {

// With each record goes a Tag, whatever its producer has to say beside the octets.
template <class Tag>
  requires std::is_trivially_copyable_v<Tag>
class RecordRing {
 public:
  struct Record {
    Tag tag;
    const std::uint8_t* octets;
    std::uint32_t length;
  };

  // Room for that many octets, headers included, rounded up to a power of two. All of it is touched here: no page is
  // missing when a worker comes to write.
  explicit RecordRing(std::size_t octets)
      : size_(std::bit_ceil(octets < 4096 ? 4096 : octets)), room_(std::make_unique<std::uint64_t[]>(size_ / 8)) {}
  RecordRing(const RecordRing&) = delete;
  RecordRing& operator=(const RecordRing&) = delete;

  std::size_t octets() const { return size_; }

  // --- the producer ---

  // Room for one record, to be written and then committed; null: full, or longer than half the ring.
  std::uint8_t* begin(std::uint32_t length) {
    const std::uint64_t tail = tail_.load(std::memory_order_relaxed);
    const std::uint64_t needed = (sizeof(Head) + length + 7) & ~std::uint64_t{7};
    const std::uint64_t to_end = size_ - (tail & (size_ - 1));
    const std::uint64_t skipped = to_end < needed ? to_end : 0;
    if (needed > size_ / 2) return nullptr;
    if (tail + skipped + needed - seen_head_ > size_) {
      seen_head_ = head_.load(std::memory_order_acquire);
      if (tail + skipped + needed - seen_head_ > size_) return nullptr;
    }
    if (skipped != 0) std::memcpy(at(tail), &kSkip, sizeof kSkip);
    begun_ = tail + skipped;
    length_ = length;
    return at(begun_) + sizeof(Head);
  }
  void commit(const Tag& tag) {
    const Head head{length_, tag};
    std::memcpy(at(begun_), &head, sizeof head);
    tail_.store(begun_ + ((sizeof(Head) + length_ + 7) & ~std::uint64_t{7}), std::memory_order_release);
  }

  // --- the consumer ---

  // The oldest record; its octets stand until pop(). False: there is none.
  bool front(Record& record) {
    std::uint64_t head = head_.load(std::memory_order_relaxed);
    if (tail_.load(std::memory_order_acquire) == head) return false;
    std::uint32_t length = 0;
    std::memcpy(&length, at(head), sizeof length);
    if (length == kSkip) {
      head += size_ - (head & (size_ - 1));
      head_.store(head, std::memory_order_release);
    }
    Head here;
    std::memcpy(&here, at(head), sizeof here);
    record = {here.tag, at(head) + sizeof(Head), here.length};
    next_ = head + ((sizeof(Head) + here.length + 7) & ~std::uint64_t{7});
    return true;
  }
  void pop() { head_.store(next_, std::memory_order_release); }

  // --- anyone ---

  bool empty() const { return tail_.load(std::memory_order_acquire) == head_.load(std::memory_order_acquire); }

 private:
  static constexpr std::uint32_t kSkip = ~std::uint32_t{};  // instead of a length: the next record is at the beginning
  struct Head {
    std::uint32_t length;
    Tag tag;
  };

  std::uint8_t* at(std::uint64_t position) const {
    return reinterpret_cast<std::uint8_t*>(room_.get()) + (position & (size_ - 1));
  }

  const std::size_t size_;
  const std::unique_ptr<std::uint64_t[]> room_;
  // Positions only grow. Each side's own on a line of its own.
  alignas(64) std::atomic<std::uint64_t> tail_{};
  std::uint64_t seen_head_{}, begun_{};
  std::uint32_t length_{};
  alignas(64) std::atomic<std::uint64_t> head_{};
  std::uint64_t next_{};
};

}  // namespace lw
