// Sums in digits of one byte, which vpshufb looks up, and floats as integers of a unit, AVX2.
// Internal linkage: each file that includes this compiles its own (table.h).
#pragma once
#include <type_traits>

#include "avx2.h"
#include "table.h"

namespace rsr {
namespace {

// In front of the tables of a float32 vector.
struct Header {
  double unit;
  bool plain;  // tables are floats
};
constexpr size_t kHeaderBytes = 64;
constexpr size_t kUnitBytes = sizeof(float);  // of a run of blocks of a group
constexpr int kMaxExponent = 100;  // of x with groups, so that units are normal float32 numbers

// The bits of the largest |x|; at least kInfinity if an x is infinite or NaN.
constexpr int32_t kInfinity = 0x7f800000;
inline int32_t largest_bits(const float* x, size_t count) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i most = _mm256_setzero_si256();
  size_t i = 0;
  for (; i + 8 <= count; i += 8)
    most = _mm256_max_epi32(most, _mm256_and_si256(load(x + i), magnitude));
  alignas(32) int32_t lanes[8];
  store(lanes, most);
  int32_t largest = 0;
  for (int32_t lane : lanes) largest = lane > largest ? lane : largest;
  for (; i < count; i++) {
    const int32_t bits = _mm_cvtsi128_si32(_mm_castps_si128(_mm_set_ss(x[i]))) & 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

inline double power_of_two(int exponent) {
  const long long bits = static_cast<long long>(1023 + exponent) << 52;
  return _mm_cvtsd_f64(_mm_castsi128_pd(_mm_set1_epi64x(bits)));
}

// The exponent of the float with these bits, normal or not; unspecified for zero.
inline int exponent_of(int32_t bits) {
  const __m128 value = _mm_castsi128_ps(_mm_set1_epi32(bits));
  const __m128d wide = _mm_cvtps_pd(value);  // normal in double
  return static_cast<int>(_mm_cvtsi128_si64(_mm_castpd_si128(wide)) >> 52 & 2047) - 1023;
}

// round(v / by) for eight int32, to the precision of float32.
inline __m256i divide(__m256i v, int by) {
  const __m256 inverse = _mm256_set1_ps(1.0f / static_cast<float>(by));
  return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(v), inverse));
}

inline __m256i times(__m256i v, int by) { return _mm256_mullo_epi32(v, _mm256_set1_epi32(by)); }

// The sums of 16 patterns of a block, int16.
inline __m256i sums_of(const int8_t* x, const int16_t* patterns, int k) {
  __m256i sums = _mm256_setzero_si256();
  for (int d = 0; d < k; d++)
    sums = _mm256_add_epi16(
        sums, _mm256_mullo_epi16(_mm256_set1_epi16(x[d]), load(patterns + d * kPatterns)));
  return sums;
}

// 16 digits l, then 16 digits h: sum = l + Base h, with h the nearest integer to sum / Base.
// vpmulhrsw is round(sum * inverse / 2^15); each caller shows that this is exact for its sums.
template <int Base>
inline __m256i digits_of(__m256i sums) {
  const __m256i h = _mm256_mulhrs_epi16(sums, _mm256_set1_epi16((32768 + Base / 2) / Base));
  const __m256i l = _mm256_sub_epi16(sums, _mm256_mullo_epi16(h, _mm256_set1_epi16(Base)));
  return _mm256_permute4x64_epi64(_mm256_packs_epi16(l, h), 0xd8);
}

// Adds l + Base h of 32 rows to int16 sums of rows 0-7 and 16-23 (low), 8-15 and 24-31 (high).
template <int Base>
inline void add_joined(__m256i l, __m256i h, __m256i& low_i16x16, __m256i& high_i16x16) {
  const __m256i join = _mm256_set1_epi16(Base << 8 | 1);
  low_i16x16 = _mm256_add_epi16(low_i16x16, _mm256_maddubs_epi16(join, _mm256_unpacklo_epi8(l, h)));
  high_i16x16 =
      _mm256_add_epi16(high_i16x16, _mm256_maddubs_epi16(join, _mm256_unpackhi_epi8(l, h)));
}

// The units of runs, behind the tables of all blocks.
template <class Byte>
inline auto* units_of(Byte* t, size_t blocks, size_t table_bytes) {
  using Unit = std::conditional_t<std::is_const_v<Byte>, const float, float>;
  return reinterpret_cast<Unit*>(t + blocks * table_bytes);
}

// The sums of 32 rows from p0 + Part p1 + Part^2 p2, which are in units. Of each part there are two
// vectors; eight sums come from the lower halves of each, then eight from the upper halves.
template <int Part>
inline void join_parts(const __m256i* parts_i16x16, float unit, __m256* sums) {
  const __m256i join = _mm256_set1_epi32(Part << 16 | 1);
  const __m256 low_unit = _mm256_set1_ps(unit), high_unit = _mm256_set1_ps(unit * Part * Part);
  const auto joined = [&](__m256i p0_and_p1, __m256i p2_twice) {
    const __m256 low = _mm256_cvtepi32_ps(_mm256_madd_epi16(p0_and_p1, join));
    const __m256 high = _mm256_cvtepi32_ps(_mm256_srai_epi32(p2_twice, 16));
    return _mm256_fmadd_ps(high, high_unit, _mm256_mul_ps(low, low_unit));
  };
  for (int i = 0; i < 2; i++) {
    const __m256i p0 = parts_i16x16[i], p1 = parts_i16x16[2 + i], p2 = parts_i16x16[4 + i];
    const __m256 a = joined(_mm256_unpacklo_epi16(p0, p1), _mm256_unpacklo_epi16(p2, p2));
    const __m256 b = joined(_mm256_unpackhi_epi16(p0, p1), _mm256_unpackhi_epi16(p2, p2));
    sums[i] = _mm256_permute2f128_ps(a, b, 0x20);
    sums[2 + i] = _mm256_permute2f128_ps(a, b, 0x31);
  }
}

}  // namespace
}  // namespace rsr
