// AVX2 helpers. Internal linkage: each file that includes them compiles its own (table.h).
//
// 256-bit operations per cycle on Sapphire Rapids, measured:
//
//   3   vpaddb, vpaddw, vpand, vpor, vpxor
//   2   vpshufb, vpunpck, vpsignb, vpcmpgtb, vpsrlw, vpmaddubsw, vpmaddwd
//   1   vpackuswb, vpermps, vblendvps
//
// Kernels state the instructions of their inner loop, as GCC 12 compiles it.
#pragma once
#include <immintrin.h>

#include "tuning.h"

namespace rsr {
namespace {

inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

inline void store(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

// 16 bytes in both halves: vpshufb looks up within a half.
inline __m256i load_twice(const char* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

// Prefetches the index into L2, then into L1, for the reason given in avx512.h.
inline void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p) + tuning.avx2.l2, _MM_HINT_T1);
  _mm_prefetch(static_cast<const char*>(p) + tuning.avx2.l1, _MM_HINT_T0);
}

// Eight scales of rows, float16 or float32.
inline __m256 eight_scales(const void* scales, bool is_half) {
  if (!is_half) return _mm256_loadu_ps(static_cast<const float*>(scales));
  return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(scales)));
}

// Pairwise: lanes 4 apart, then 2 and 1.
inline float sum(__m256 v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

inline float largest(__m256 v) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

}  // namespace
}  // namespace rsr
