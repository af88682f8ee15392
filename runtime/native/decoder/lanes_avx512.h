// kLanes floats in a register of AVX-512 (F, BW, VL).
#pragma once
#include "avx2.h"
#include "table.h"

namespace rsr {
namespace {

using Lanes = __m512;

constexpr int kTileVectors = 4;

inline __mmask16 first_lanes(size_t n) { return static_cast<__mmask16>((1u << n) - 1); }

inline Lanes broadcast(float x) { return _mm512_set1_ps(x); }
inline Lanes load(const float* p) { return _mm512_loadu_ps(p); }
inline Lanes load(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Lanes load(const BFloat16* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline Lanes load(const int8_t* p) {
  return _mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline void store(float* p, Lanes a) { _mm512_storeu_ps(p, a); }
inline void store(uint16_t* p, Lanes a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline Lanes load_part(const float* p, size_t n, float rest = 0.0f) {
  return _mm512_mask_loadu_ps(broadcast(rest), first_lanes(n), p);
}
inline void store_part(float* p, Lanes a, size_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), a); }

inline void prefetch(const char* p) { _mm_prefetch(p, _MM_HINT_T1); }

inline Lanes add(Lanes a, Lanes b) { return _mm512_add_ps(a, b); }
inline Lanes sub(Lanes a, Lanes b) { return _mm512_sub_ps(a, b); }
inline Lanes mul(Lanes a, Lanes b) { return _mm512_mul_ps(a, b); }
inline Lanes div(Lanes a, Lanes b) { return _mm512_div_ps(a, b); }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return _mm512_fmadd_ps(a, b, c); }
inline Lanes max(Lanes a, Lanes b) { return _mm512_max_ps(a, b); }
inline Lanes negative_abs(Lanes a) {
  return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MIN)));
}
inline Lanes where_negative(Lanes x, Lanes a, Lanes b) {
  return _mm512_mask_mov_ps(
      b, _mm512_cmplt_epi32_mask(_mm512_castps_si512(x), _mm512_setzero_si512()), a);
}
inline Lanes zero_below(Lanes a, Lanes x, float limit) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, broadcast(limit), _CMP_NLT_UQ), a);
}
inline Lanes power_of_two(Lanes a) {
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_slli_epi32(_mm512_castps_si512(a), 23),
                                              _mm512_set1_epi32(0x3f800000)));
}

inline __m256 lower_half(Lanes a) { return _mm512_castps512_ps256(a); }
inline __m256 upper_half(Lanes a) {
  return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1));
}
inline float sum(Lanes a) { return sum(_mm256_add_ps(lower_half(a), upper_half(a))); }
inline float largest(Lanes a) { return largest(_mm256_max_ps(lower_half(a), upper_half(a))); }

struct Magnitudes {
  __m512i v;
};
inline Magnitudes no_magnitudes() { return {_mm512_setzero_si512()}; }
inline Magnitudes larger(Magnitudes m, Lanes a) {
  return {_mm512_max_epi32(m.v,
                           _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MAX)))};
}
inline float largest(Magnitudes m) {
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(_mm512_reduce_max_epi32(m.v))));
}

// Conversion rounds half to even in the default rounding mode.
inline void store_i8(int8_t* p, Lanes a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a)));
}
inline void store_i8(int8_t* p, Lanes a, size_t n) {
  _mm512_mask_cvtsepi32_storeu_epi8(p, first_lanes(n), _mm512_cvtps_epi32(a));
}

}  // namespace
}  // namespace rsr
