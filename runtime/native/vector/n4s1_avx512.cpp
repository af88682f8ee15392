// Packing n4s1 on AVX-512 (F, BW, VL): a nibble of magnitude and a bit of sign make an index into
// the 32 signed sums of a column block, looked up as in w16_avx512.cpp: 32 rows at once for
// int8, 16 for float32.
//
// What pays, besides what pays there:
// * The index is made for 64 rows at once, in bytes: the sign's bit is moved to bit 4 and joined
//   with the nibble in one vpternlog. The lookups ignore the bits above, so a byte of a wider lane
//   needs only a shift.
#include <immintrin.h>

#include "table.h"

namespace rsr {
namespace {

constexpr size_t kStripRows = 64, kBlocks = 8, kVectors = 5;  // blocks and vectors of a unit
constexpr size_t kEntries = 32;  // of a table: 16 by magnitude, then the same negative

inline __m512i load(const void* p) { return _mm512_loadu_si512(p); }

inline void prefetch(const uint8_t* p) {
  _mm_prefetch(reinterpret_cast<const char*>(p) + 12288, _MM_HINT_T1);
  _mm_prefetch(reinterpret_cast<const char*>(p) + 1024, _MM_HINT_T0);
}

// Shifts of 16-bit lanes by multiplication (w16_avx512.cpp says why).
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

// The five vectors of one unit; of half a strip the other 32 rows are zero.
struct Unit {
  __m512i nibbles[4], signs;
};

template <int R>  // rows / 32
inline Unit load_unit(const uint8_t* p, size_t height) {
  const __mmask64 rows = R == 2 ? ~__mmask64{0} : 0xffffffff;
  for (size_t line = 0; line < kVectors * 32 * R; line += 64) prefetch(p + line);
  Unit unit;
  for (size_t i = 0; i < 4; i++) unit.nibbles[i] = _mm512_maskz_loadu_epi8(rows, p + i * height);
  unit.signs = _mm512_maskz_loadu_epi8(rows, p + 4 * height);
  return unit;
}

void grow_i8(const int8_t* x, const int16_t* patterns, int k, size_t blocks, void* tables) {
  int16_t* t = static_cast<int16_t*>(tables);
  for (size_t b = 0; b < blocks; b++, x += k, t += kEntries) {
    __m256i sum_i16x16 = _mm256_setzero_si256();
    for (int d = 0; d < k; d++) {
      const __m256i digits = _mm256_maskz_loadu_epi16(0xffff, patterns + d * kPatterns + 13);
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
  const __m512i table = load(t + J * kEntries);
  const __m512i index = index_of<J>(unit.nibbles[J / 2], unit.signs);
  even_i16x32 = _mm512_add_epi16(even_i16x32, _mm512_permutexvar_epi16(index, table));
  odd_i16x32 = _mm512_add_epi16(odd_i16x32, _mm512_permutexvar_epi16(shift_right<8>(index), table));
}

inline void widen(__m512i sum_i16x32, __m512i* sums_i32x16) {
  const __m256i low = _mm512_castsi512_si256(sum_i16x32);
  const __m256i high = _mm512_extracti64x4_epi64(sum_i16x32, 1);
  sums_i32x16[0] = _mm512_add_epi32(sums_i32x16[0], _mm512_cvtepi16_epi32(low));
  sums_i32x16[1] = _mm512_add_epi32(sums_i32x16[1], _mm512_cvtepi16_epi32(high));
}

// Bound: an int16 sum takes 8 * flush entries of at most 384 (kernels.h), then is widened.
template <int R>
void lookup_i8(const uint8_t* p, size_t height, size_t units, size_t flush, const int16_t* t,
               int32_t* y) {
  __m512i even_i32x16[2], odd_i32x16[2];
  for (int i = 0; i < 2; i++) even_i32x16[i] = odd_i32x16[i] = _mm512_setzero_si512();
  for (size_t u = 0; u < units;) {
    const size_t stop = units - u < flush ? units : u + flush;
    __m512i even = _mm512_setzero_si512(), odd = even;
    for (; u < stop; u++, p += kVectors * height, t += kBlocks * kEntries) {
      const Unit unit = load_unit<R>(p, height);
      add_i8<0>(unit, t, even, odd);
      add_i8<1>(unit, t, even, odd);
      add_i8<2>(unit, t, even, odd);
      add_i8<3>(unit, t, even, odd);
      add_i8<4>(unit, t, even, odd);
      add_i8<5>(unit, t, even, odd);
      add_i8<6>(unit, t, even, odd);
      add_i8<7>(unit, t, even, odd);
    }
    widen(even, even_i32x16);
    widen(odd, odd_i32x16);
  }
  const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  for (int r = 0; r < R; r++) {
    _mm512_storeu_si512(y + 32 * r,
                        _mm512_permutex2var_epi32(even_i32x16[r], first, odd_i32x16[r]));
    _mm512_storeu_si512(y + 32 * r + 16,
                        _mm512_permutex2var_epi32(even_i32x16[r], second, odd_i32x16[r]));
  }
}

void lookup_i8_any(const RankedRows& rows, const void* tables, int32_t* y) {
  const size_t height = rows.end < kStripRows ? rows.end : kStripRows;
  const uint8_t* p = rows.index + rows.first;
  const int16_t* t = static_cast<const int16_t*>(tables);
  rows.last - rows.first > 32 ? lookup_i8<2>(p, height, rows.columns, rows.flush, t, y)
                              : lookup_i8<1>(p, height, rows.columns, rows.flush, t, y);
}

void grow_f32(const float* x, const float* patterns, int k, size_t blocks, void* tables) {
  float* t = static_cast<float*>(tables);
  for (size_t b = 0; b < blocks; b++, x += k, t += kEntries) {
    __m512 sum_f32x16 = _mm512_setzero_ps();
    for (int d = k; d-- > 0;)
      sum_f32x16 = _mm512_fmadd_ps(_mm512_set1_ps(x[d]),
                                   _mm512_loadu_ps(patterns + d * kPatterns + 13), sum_f32x16);
    _mm512_storeu_ps(t, sum_f32x16);
    _mm512_storeu_ps(t + 16, _mm512_sub_ps(_mm512_setzero_ps(), sum_f32x16));
  }
}

// Adds block J of 64 rows: a 32-bit lane holds rows 4i to 4i + 3, sums[p] those of rows 4i + p.
template <int J>
inline void add_f32(const Unit& unit, const float* t, __m512* sums_f32x16) {
  const __m512 low = _mm512_loadu_ps(t + J * kEntries),
               high = _mm512_loadu_ps(t + J * kEntries + 16);
  __m512i index[4];
  index[0] = index_of<J>(unit.nibbles[J / 2], unit.signs);
  index[1] = shift_right<8>(index[0]);
  index[2] = _mm512_srli_epi32(index[0], 16);
  index[3] = _mm512_srli_epi32(index[1], 16);
  for (int p = 0; p < 4; p++)
    sums_f32x16[p] = _mm512_add_ps(sums_f32x16[p], _mm512_permutex2var_ps(low, index[p], high));
}

template <int R>
void lookup_f32(const uint8_t* p, size_t height, size_t units, const float* t, float* y) {
  __m512 sums[4];
  for (auto& sum : sums) sum = _mm512_setzero_ps();
  for (size_t u = 0; u < units; u++, p += kVectors * height, t += kBlocks * kEntries) {
    const Unit unit = load_unit<R>(p, height);
    add_f32<0>(unit, t, sums);
    add_f32<1>(unit, t, sums);
    add_f32<2>(unit, t, sums);
    add_f32<3>(unit, t, sums);
    add_f32<4>(unit, t, sums);
    add_f32<5>(unit, t, sums);
    add_f32<6>(unit, t, sums);
    add_f32<7>(unit, t, sums);
  }
  alignas(64) float in_lanes[4][16];
  for (int i = 0; i < 4; i++) _mm512_store_ps(in_lanes[i], sums[i]);
  for (int r = 0; r < 32 * R; r++) y[r] = in_lanes[r % 4][r / 4];
}

void lookup_f32_any(const RankedRows& rows, const void* tables, float* y) {
  const size_t height = rows.end < kStripRows ? rows.end : kStripRows;
  const uint8_t* p = rows.index + rows.first;
  const float* t = static_cast<const float*>(tables);
  rows.last - rows.first > 32 ? lookup_f32<2>(p, height, rows.columns, t, y)
                              : lookup_f32<1>(p, height, rows.columns, t, y);
}

}  // namespace

void fill_n4s1_avx512(KernelTable& table) {
  table.n4s1_i8.vector = {kEntries * sizeof(int16_t), 0, grow_i8, lookup_i8_any};
  table.n4s1_f32.vector = {kEntries * sizeof(float), 0, grow_f32, lookup_f32_any};
}

}  // namespace rsr
