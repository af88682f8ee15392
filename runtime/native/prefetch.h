// Prefetches of a cache line, of every compiler; nothing where it has none. Internal linkage: each
// file that includes this compiles its own (table.h).
#pragma once
#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#endif

namespace rsr {
namespace {

// Into the L1 cache.
inline void prefetch_line([[maybe_unused]] const void* p) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(p);
#elif defined(_M_X64)
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
#elif defined(_M_ARM64)
  __prefetch(p);
#endif
}

// Into the L2 cache.
inline void prefetch_into_l2([[maybe_unused]] const void* p) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(p, 0, 2);
#elif defined(_M_X64)
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
#elif defined(_M_ARM64)
  __prefetch2(p, 2);  // pldl2keep
#endif
}

}  // namespace
}  // namespace rsr
