#include "huge_pages.h"

#if defined(__linux__)
#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#endif

namespace rsr {

#if defined(__linux__)

namespace {

// Newer than the headers of some build systems. Older kernels answer EINVAL.
constexpr int kPopulateRead = 22, kCollapse = 25;  // MADV_POPULATE_READ, MADV_COLLAPSE

// Anonymous memory of `size` bytes that begins at a multiple of `page`; null if there is none.
char* aligned_memory(size_t size, size_t page) {
  void* found =
      mmap(nullptr, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (found == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(found);
  const size_t before = (page - reinterpret_cast<uintptr_t>(begin) % page) % page;
  if (before > 0) munmap(begin, before);
  if (before < page) munmap(begin + before + size, page - before);
  return begin + before;
}

}  // namespace

bool collapse_into_huge_pages(const void* data, size_t size) {
  return madvise(const_cast<void*>(data), size, kCollapse) == 0;
}

bool copy_into_huge_pages(const void* data, size_t size, size_t page) {
  void* const target = const_cast<void*>(data);
  // Reading beyond the end of a truncated file ends the process; this reports it as an error.
  if (madvise(target, size, kPopulateRead) != 0 && errno != EINVAL) return false;
  char* const copy = aligned_memory(size, page);
  if (!copy) return false;
  if (madvise(copy, size, MADV_HUGEPAGE) == 0) {
    std::memcpy(copy, data, size);
    // Moves the pages under the lock of the address space: a thread that reads meanwhile finds the
    // mapping or the copy, and waits in between. Both begin at a multiple of `page`, so huge pages
    // stay whole. The kernel checks its limit of mappings before it removes this one; only its own
    // lack of memory can fail after that.
    if (mprotect(copy, size, PROT_READ) == 0 &&
        mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, target) == target)
      return true;
  }
  munmap(copy, size);
  return false;
}

#else

bool collapse_into_huge_pages(const void*, size_t) { return false; }

bool copy_into_huge_pages(const void*, size_t, size_t) { return false; }

#endif

}  // namespace rsr
