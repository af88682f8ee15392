// The scales of groups on AVX-512. Internal linkage: each file that includes this compiles its own
// (table.h).
#pragma once
#include "avx512.h"
#include "table.h"

namespace rsr {
namespace {

// Prefetches the scales of eight groups ahead: those of neighboring groups lie far apart.
// scales: of one group, for `rows` rows.
inline void prefetch_scales(const GroupScales& all, const char* scales, size_t rows) {
  const size_t entry = entry_bytes(all);
  for (size_t i = 0; i < rows * entry; i += 64)
    _mm_prefetch(scales + 8 * all.stride * entry + i, _MM_HINT_T0);
}

inline __m512 sixteen_scales(const char* scales, bool is_half, __m512 step) {
  const __m512 scale =
      is_half ? _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)))
              : _mm512_loadu_ps(scales);
  return _mm512_mul_ps(scale, step);
}

}  // namespace
}  // namespace rsr
