// kLanes floats in two registers of AVX2, with FMA and F16C.
#pragma once
#include <cstring>

#include "avx2.h"
#include "table.h"

namespace rsr {
namespace {

struct Lanes {
  __m256 low, high;
};

constexpr int kTileVectors = 1;

inline Lanes broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Lanes load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline Lanes load(const uint16_t* p) {
  const __m128i* halves = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}
inline __m256 widened_bf16(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline Lanes load(const BFloat16* p) {
  const __m128i* halves = reinterpret_cast<const __m128i*>(p);
  return {widened_bf16(_mm_loadu_si128(halves)), widened_bf16(_mm_loadu_si128(halves + 1))};
}
inline Lanes load(const int8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
inline void store(float* p, Lanes a) {
  _mm256_storeu_ps(p, a.low);
  _mm256_storeu_ps(p + 8, a.high);
}
inline void store(uint16_t* p, Lanes a) {
  __m128i* halves = reinterpret_cast<__m128i*>(p);
  _mm_storeu_si128(halves, _mm256_cvtps_ph(a.low, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(halves + 1, _mm256_cvtps_ph(a.high, _MM_FROUND_TO_NEAREST_INT));
}
inline Lanes load_part(const float* p, size_t n, float rest = 0.0f) {
  float all[kLanes];
  store(all, broadcast(rest));
  std::memcpy(all, p, n * sizeof(float));
  return load(all);
}
inline void store_part(float* p, Lanes a, size_t n) {
  float all[kLanes];
  store(all, a);
  std::memcpy(p, all, n * sizeof(float));
}

inline void prefetch(const char* p) { _mm_prefetch(p, _MM_HINT_T1); }

inline Lanes add(Lanes a, Lanes b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline Lanes sub(Lanes a, Lanes b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline Lanes mul(Lanes a, Lanes b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline Lanes div(Lanes a, Lanes b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
inline Lanes fma(Lanes a, Lanes b, Lanes c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Lanes max(Lanes a, Lanes b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline Lanes negative_abs(Lanes a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_or_ps(a.low, sign), _mm256_or_ps(a.high, sign)};
}
inline Lanes where_negative(Lanes x, Lanes a, Lanes b) {
  return {_mm256_blendv_ps(b.low, a.low, x.low), _mm256_blendv_ps(b.high, a.high, x.high)};
}
inline Lanes zero_below(Lanes a, Lanes x, float limit) {
  const __m256 l = _mm256_set1_ps(limit);
  return {_mm256_and_ps(a.low, _mm256_cmp_ps(x.low, l, _CMP_NLT_UQ)),
          _mm256_and_ps(a.high, _mm256_cmp_ps(x.high, l, _CMP_NLT_UQ))};
}
inline __m256 power_of_two(__m256 a) {
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32(_mm256_castps_si256(a), 23),
                                              _mm256_set1_epi32(0x3f800000)));
}
inline Lanes power_of_two(Lanes a) { return {power_of_two(a.low), power_of_two(a.high)}; }

inline float sum(Lanes a) { return sum(_mm256_add_ps(a.low, a.high)); }
inline float largest(Lanes a) { return largest(_mm256_max_ps(a.low, a.high)); }

struct Magnitudes {
  __m256i v;
};
inline Magnitudes no_magnitudes() { return {_mm256_setzero_si256()}; }
inline Magnitudes larger(Magnitudes m, Lanes a) {
  const __m256i mask = _mm256_set1_epi32(INT32_MAX);
  const __m256i low = _mm256_and_si256(_mm256_castps_si256(a.low), mask);
  const __m256i high = _mm256_and_si256(_mm256_castps_si256(a.high), mask);
  return {_mm256_max_epi32(m.v, _mm256_max_epi32(low, high))};
}
inline float largest(Magnitudes m) {
  __m128i four = _mm_max_epi32(_mm256_castsi256_si128(m.v), _mm256_extracti128_si256(m.v, 1));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0b01001110));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0b10110001));
  return _mm_cvtss_f32(_mm_castsi128_ps(four));
}

// Conversion rounds half to even in the default rounding mode.
inline __m128i to_i8(Lanes a) {
  // Packing works in each half of a register: 0-3, 8-11 | 4-7, 12-15.
  const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high));
  const __m256i in_order = _mm256_permute4x64_epi64(words, 0b11011000);
  return _mm_packs_epi16(_mm256_castsi256_si128(in_order), _mm256_extracti128_si256(in_order, 1));
}
inline void store_i8(int8_t* p, Lanes a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_i8(a));
}
inline void store_i8(int8_t* p, Lanes a, size_t n) {
  int8_t all[kLanes];
  store_i8(all, a);
  std::memcpy(p, all, n);
}

}  // namespace
}  // namespace rsr
