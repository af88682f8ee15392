// GroupedTableProduct::add_scaled, AVX2; AVX-512 uses it, too.
//
// Internal linkage: each file that includes this compiles its own (table.h).
#pragma once
#include "batch/grouped_tables.h"

namespace rsr {
namespace {

template <class Lanes, class Packing>
template <bool kWide>
inline void GroupedTableProduct<Lanes, Packing>::add_scaled(size_t rows, PerThread& scratch) {
  __m256 steps[kLanes / 8];
  for (size_t i = 0; i < kLanes / 8; i++) steps[i] = _mm256_loadu_ps(scratch.steps + 8 * i);
  for (size_t r = 0; r < rows; r++) {
    const __m256 scale = _mm256_broadcast_ss(scratch.scales + r);
    for (size_t i = 0; i < kLanes / 8; i++) {
      const size_t at = r * kLanes + 8 * i;
      __m128i* eight = reinterpret_cast<__m128i*>(scratch.tile + at);
      const __m256i sum =
          kWide ? load(scratch.wide + at) : _mm256_cvtepi16_epi32(_mm_loadu_si128(eight));
      if (kWide)
        store(scratch.wide + at, _mm256_setzero_si256());
      else
        _mm_storeu_si128(eight, _mm_setzero_si128());
      _mm256_storeu_ps(scratch.sums + at,
                       _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(scale, steps[i]),
                                       _mm256_loadu_ps(scratch.sums + at)));
    }
  }
}

}  // namespace
}  // namespace rsr
