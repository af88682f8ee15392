// Memory for kernels.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace rsr {

constexpr size_t kLineBytes = 64;  // of a cache line: how memory for kernels is aligned

// Memory that is not cleared, kept from product to product.
class Buffer {
 public:
  void* get(size_t bytes) {
    if (bytes <= kMostKept) trim();
    if (bytes > size_) {
      data_.reset(new char[bytes + kLineBytes]);
      size_ = bytes;
    }
    const size_t beyond = reinterpret_cast<uintptr_t>(data_.get()) % kLineBytes;
    return data_.get() + (kLineBytes - beyond) % kLineBytes;
  }

  // What a rare, huge matrix needed is not kept for the life of the thread.
  void trim() {
    if (size_ > kMostKept) data_.reset(), size_ = 0;
  }

 private:
  static constexpr size_t kMostKept = 32 << 20;

  std::unique_ptr<char[]> data_;
  size_t size_ = 0;
};

}  // namespace rsr
