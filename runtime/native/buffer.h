// Scratch memory for kernels.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace rsr {

constexpr size_t kLineBytes = 64;  // a cache line; the alignment of scratch memory

// Uninitialized memory, kept between products.
class Buffer {
 public:
  void* get(size_t bytes) {
    if (bytes <= kMaxKept) trim();
    if (bytes > size_) {
      data_.reset(new char[bytes + kLineBytes]);
      size_ = bytes;
    }
    const size_t beyond = reinterpret_cast<uintptr_t>(data_.get()) % kLineBytes;
    return data_.get() + (kLineBytes - beyond) % kLineBytes;
  }

  // Frees what a rare, huge matrix needed; otherwise it would live as long as the thread.
  void trim() {
    if (size_ > kMaxKept) data_.reset(), size_ = 0;
  }

 private:
  static constexpr size_t kMaxKept = 32 << 20;

  std::unique_ptr<char[]> data_;
  size_t size_ = 0;
};

}  // namespace rsr
