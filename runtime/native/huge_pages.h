// Huge pages under the mapping of a file. Only Linux has them; elsewhere all of this refuses.
#pragma once
#include <cstddef>

namespace rsr {

// Both functions take [data, data + size) of a mapping that nobody writes, both multiples of
// `page`, the size of a huge page. The bytes stay the same at the same addresses, so products may
// read them meanwhile.

// Has the kernel collect the pages of the file itself into huge ones, which all processes share
// (MADV_COLLAPSE: Linux 6.1, for file systems and mappings that allow it).
bool collapse_into_huge_pages(const void* data, size_t size);

// Replaces the mapping by a private copy in memory that is advised to use huge pages. Returns
// false, and leaves the mapping, if there is no memory or the file has become shorter.
bool copy_into_huge_pages(const void* data, size_t size, size_t page);

}  // namespace rsr
