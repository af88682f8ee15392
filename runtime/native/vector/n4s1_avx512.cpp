// One vector, packing n4s1, AVX-512 (F, BW, VL): a nibble of magnitude and a sign bit index the 32
// signed sums of a column block, which are looked up as in w16_avx512.h: 32 rows at once for int8,
// 16 for float32.
//
// What pays, besides what pays there:
// * The index is made for 64 rows at once, in bytes: one vpternlog joins the sign, moved to bit 4,
//   with the nibble. A lookup ignores the bits above, so that shifts bring the other bytes of a
//   wider lane to their place.
//
// Per unit and 64 rows (1536 multiply-adds), int8: 16 vpermw, 16 vpaddw, 15 vpmulhuw, 4 vpsllw,
// 8 vpternlogd, 13 loads. 59 operations on two ports: 30 cycles on Sapphire Rapids.
// float32: 32 vpermi2ps, 32 vaddps, 16 vpsrld, 15 vpmulhuw, 4 vpsllw, 8 vpternlogd, some 20 loads.
// 107 operations: 54 cycles.
#include "avx512.h"
#include "table.h"

namespace rsr {
namespace {

// Shifts of 16-bit lanes by multiplication (w16_avx512.h says why).
template <int By>
inline __m512i shift_right(__m512i v) {
  return _mm512_mulhi_epu16(v, _mm512_set1_epi16(static_cast<int16_t>(1u << (16 - By))));
}
template <int By>
inline __m512i shift_left(__m512i v) {
  return _mm512_mullo_epi16(v, _mm512_set1_epi16(1 << By));
}

// The sign of block J, bit 7 - J of its byte, in bit 4.
template <int J>
inline __m512i sign_in_bit_4(__m512i signs) {
  if constexpr (J < 3) return shift_right<3 - J>(signs);
  if constexpr (J == 3) return signs;
  if constexpr (J > 3) return shift_left<J - 3>(signs);
}

// The indices of 64 rows in block J, in the low five bits of each byte.
template <int J>
inline __m512i index_of(__m512i nibbles, __m512i signs) {
  constexpr int kSelect = 0xca;  // (A & B) | (~A & C)
  if constexpr (J % 2) nibbles = shift_right<4>(nibbles);
  return _mm512_ternarylogic_epi32(_mm512_set1_epi8(15), nibbles, sign_in_bit_4<J>(signs), kSelect);
}

// The five vectors of one unit. If a strip has 32 rows, the upper 32 are zero.
struct Unit {
  __m512i nibbles[4], signs;
};

template <int R>  // rows / kRowUnit
inline Unit load_unit(const uint8_t* p, size_t height) {
  const __mmask64 rows = R == 2 ? ~__mmask64{0} : 0xffffffff;
  for (size_t line = 0; line < N4S1::kCellBytes * kRowUnit * R; line += 64) prefetch(p + line);
  Unit unit;
  for (size_t i = 0; i < 4; i++) unit.nibbles[i] = _mm512_maskz_loadu_epi8(rows, p + i * height);
  unit.signs = _mm512_maskz_loadu_epi8(rows, p + N4S1::kSignVector * height);
  return unit;
}

// Calls body with each block of a unit, as a constant.
template <class Body, int J = 0>
inline void for_each_block(const Body& body) {
  body(std::integral_constant<int, J>());
  if constexpr (J + 1 < N4S1::kBlocks) for_each_block<Body, J + 1>(body);
}

void build_tables_i8(const int8_t* x, const int16_t* patterns, int k, size_t blocks, void* tables) {
  int16_t* t = static_cast<int16_t*>(tables);
  for (size_t b = 0; b < blocks; b++, x += k, t += kPatterns) {
    __m256i sum_i16x16 = _mm256_setzero_si256();
    for (int d = 0; d < k; d++) {
      const __m256i digits =
          _mm256_maskz_loadu_epi16(0xffff, patterns + d * kPatterns + N4S1::kZeroRank);
      sum_i16x16 =
          _mm256_add_epi16(sum_i16x16, _mm256_mullo_epi16(_mm256_set1_epi16(x[d]), digits));
    }
    const __m256i negative = _mm256_sub_epi16(_mm256_setzero_si256(), sum_i16x16);
    _mm512_storeu_si512(t, _mm512_inserti64x4(_mm512_castsi256_si512(sum_i16x16), negative, 1));
  }
}

// Adds block J of 64 rows; a 16-bit lane holds rows 2i and 2i + 1.
template <int J>
inline void add_i8(const Unit& unit, const int16_t* t, __m512i& even_i16x32, __m512i& odd_i16x32) {
  const __m512i table = load(t + J * kPatterns);
  const __m512i index = index_of<J>(unit.nibbles[J / 2], unit.signs);
  even_i16x32 = _mm512_add_epi16(even_i16x32, _mm512_permutexvar_epi16(index, table));
  odd_i16x32 = _mm512_add_epi16(odd_i16x32, _mm512_permutexvar_epi16(shift_right<8>(index), table));
}

// Bound: an int16 sum takes the entries of columns_per_widen units (packing.h), then it is widened.
template <int R>
void lookup_i8(const RankedRows& rows, const void* tables, int32_t* y) {
  const uint8_t* p = rows.index + rows.first;
  const size_t height = strip_height<N4S1>(rows.end);
  const int16_t* t = static_cast<const int16_t*>(tables);
  __m512i even_i32x16[2], odd_i32x16[2];
  for (int i = 0; i < 2; i++) even_i32x16[i] = odd_i32x16[i] = _mm512_setzero_si512();
  for (size_t u = 0; u < rows.columns;) {
    const size_t stop = min(rows.columns, u + rows.columns_per_widen);
    __m512i even = _mm512_setzero_si512(), odd = even;
    for (; u < stop; u++, p += N4S1::kCellBytes * height, t += N4S1::kBlocks * kPatterns) {
      const Unit unit = load_unit<R>(p, height);
      for_each_block([&](auto J) { add_i8<J>(unit, t, even, odd); });
    }
    add_widened(even, even_i32x16[0], even_i32x16[1]);
    add_widened(odd, odd_i32x16[0], odd_i32x16[1]);
  }
  for (int r = 0; r < R; r++) store_even_and_odd(y + 32 * r, even_i32x16[r], odd_i32x16[r]);
}

void lookup_i8_any(const RankedRows& rows, const void* tables, int32_t* y) {
  with_units<N4S1>(rows, [&](auto R) { lookup_i8<R>(rows, tables, y); });
}

void build_tables_f32(const float* x, const float* patterns, int k, size_t blocks, void* tables) {
  float* t = static_cast<float*>(tables);
  for (size_t b = 0; b < blocks; b++, x += k, t += kPatterns) {
    __m512 sum_f32x16 = _mm512_setzero_ps();
    for (int d = k; d-- > 0;)
      sum_f32x16 =
          _mm512_fmadd_ps(_mm512_set1_ps(x[d]),
                          _mm512_loadu_ps(patterns + d * kPatterns + N4S1::kZeroRank), sum_f32x16);
    _mm512_storeu_ps(t, sum_f32x16);
    _mm512_storeu_ps(t + 16, _mm512_sub_ps(_mm512_setzero_ps(), sum_f32x16));
  }
}

// Adds block J of 64 rows: a 32-bit lane holds rows 4i to 4i + 3, sums[p] those of rows 4i + p.
template <int J>
inline void add_f32(const Unit& unit, const float* t, __m512* sums_f32x16) {
  const __m512 low = _mm512_loadu_ps(t + J * kPatterns),
               high = _mm512_loadu_ps(t + J * kPatterns + 16);
  __m512i index[4];
  index[0] = index_of<J>(unit.nibbles[J / 2], unit.signs);
  index[1] = shift_right<8>(index[0]);
  index[2] = _mm512_srli_epi32(index[0], 16);
  index[3] = _mm512_srli_epi32(index[1], 16);
  for (int p = 0; p < 4; p++)
    sums_f32x16[p] = _mm512_add_ps(sums_f32x16[p], _mm512_permutex2var_ps(low, index[p], high));
}

template <int R>
void lookup_f32(const RankedRows& rows, const void* tables, float* y) {
  const uint8_t* p = rows.index + rows.first;
  const size_t height = strip_height<N4S1>(rows.end);
  const float* t = static_cast<const float*>(tables);
  __m512 sums[4];
  for (auto& sum : sums) sum = _mm512_setzero_ps();
  for (size_t u = 0; u < rows.columns;
       u++, p += N4S1::kCellBytes * height, t += N4S1::kBlocks * kPatterns) {
    const Unit unit = load_unit<R>(p, height);
    for_each_block([&](auto J) { add_f32<J>(unit, t, sums); });
  }
  alignas(64) float in_lanes[4][16];
  for (int i = 0; i < 4; i++) _mm512_store_ps(in_lanes[i], sums[i]);
  for (int r = 0; r < 32 * R; r++) y[r] = in_lanes[r % 4][r / 4];
}

void lookup_f32_any(const RankedRows& rows, const void* tables, float* y) {
  with_units<N4S1>(rows, [&](auto R) { lookup_f32<R>(rows, tables, y); });
}

}  // namespace

void fill_n4s1_avx512(KernelTable& table) {
  table.n4s1_i8.vector = {kPatterns * sizeof(int16_t), 0, build_tables_i8, lookup_i8_any};
  table.n4s1_f32.vector = {kPatterns * sizeof(float), 0, build_tables_f32, lookup_f32_any};
}

}  // namespace rsr
