// AVX-512 (F, BW, VL): the 32 sums of a column block fill one register of int16 or two of float32,
// so adding a block for 32 rows is one in-register lookup of 32 words (vpermw, vpermi2ps).
//
// What pays, measured (docs/performance.md):
// * The lookup uses the low five bits of an index and ignores the rest: no masking.
// * Indices are shifted by multiplication (vpmulhuw by 2^11 is a shift right by 5): shifts share
//   the port of the lookups on AMD Zen 4, multiplications do not. +15 % int8, +30 % float32 there.
//   (Intel has both on one port, so there it should make no difference.)
// * The accumulators of a whole strip stay in registers and the index is read once, in order.
// * Prefetching 12 KiB ahead into L2 lets the memory work while we look up: from DRAM 1.4 x for
//   int8 and 1.8 x for float32 over a distance of 1 KiB into L1, where the few line-fill buffers
//   run out. A second prefetch, 1 KiB ahead from L2 into L1, gives another 5 %.
#include <immintrin.h>

#include "kernels.h"

namespace rsr {
namespace {

constexpr size_t kStripRows = 128;
constexpr size_t kTableBytesI8 = 64, kTableBytesF32 = 128;  // of a column block

inline void prefetch(const uint16_t* words) {
  const char* p = reinterpret_cast<const char*>(words);
  _mm_prefetch(p + 12288, _MM_HINT_T1);
  _mm_prefetch(p + 1024, _MM_HINT_T0);
}

inline __m512i load(const void* p) { return _mm512_loadu_si512(p); }

// K: k where it is known (the patterns then stay in registers), 0 for any.
template <int K>
void grow_i8(const int8_t* x, const int16_t* patterns, int k, size_t blocks, char* t) {
  const int digits = K ? K : k;
  for (size_t b = 0; b < blocks; b++, x += digits, t += kTableBytesI8) {
    __m512i sum_i16x32 = _mm512_setzero_si512();
    for (int d = 0; d < digits; d++)
      sum_i16x32 = _mm512_add_epi16(
          sum_i16x32, _mm512_mullo_epi16(_mm512_set1_epi16(x[d]), load(patterns + d * kPatterns)));
    _mm512_storeu_si512(t, sum_i16x32);
  }
}

void grow_i8_any(const int8_t* x, const int16_t* patterns, int k, size_t blocks, void* tables) {
  char* t = static_cast<char*>(tables);
  k == 3 ? grow_i8<3>(x, patterns, k, blocks, t) : grow_i8<0>(x, patterns, k, blocks, t);
}

// Bound: an int16 sum takes 3 * flush entries of at most 128 k (kernels.h), then is widened.
template <int R>  // rows / 32
void lookup_i8(const uint16_t* words, size_t height, size_t columns, size_t flush,
               const void* tables, int32_t* y) {
  const __m512i by5 = _mm512_set1_epi16(1 << 11), by10 = _mm512_set1_epi16(1 << 6);
  const char* t = static_cast<const char*>(tables);
  __m512i low_i32x16[R], high_i32x16[R];
  for (int r = 0; r < R; r++) low_i32x16[r] = high_i32x16[r] = _mm512_setzero_si512();
  for (size_t g = 0; g < columns;) {
    const size_t stop = columns - g < flush ? columns : g + flush;
    __m512i sum_i16x32[R];
    for (int r = 0; r < R; r++) sum_i16x32[r] = _mm512_setzero_si512();
    for (; g < stop; g++, words += height, t += 3 * kTableBytesI8) {
      for (int r = 0; r < R; r++) prefetch(words + 32 * r);
      const __m512i t0 = load(t), t1 = load(t + 64), t2 = load(t + 128);
      for (int r = 0; r < R; r++) {
        const __m512i w = load(words + 32 * r);
        const __m512i v0 = _mm512_permutexvar_epi16(w, t0);
        const __m512i v1 = _mm512_permutexvar_epi16(_mm512_mulhi_epu16(w, by5), t1);
        const __m512i v2 = _mm512_permutexvar_epi16(_mm512_mulhi_epu16(w, by10), t2);
        sum_i16x32[r] =
            _mm512_add_epi16(sum_i16x32[r], _mm512_add_epi16(_mm512_add_epi16(v0, v1), v2));
      }
    }
    for (int r = 0; r < R; r++) {
      const __m512i s = sum_i16x32[r];
      low_i32x16[r] =
          _mm512_add_epi32(low_i32x16[r], _mm512_cvtepi16_epi32(_mm512_castsi512_si256(s)));
      high_i32x16[r] =
          _mm512_add_epi32(high_i32x16[r], _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(s, 1)));
    }
  }
  for (int r = 0; r < R; r++) {
    _mm512_storeu_si512(y + 32 * r, low_i32x16[r]);
    _mm512_storeu_si512(y + 32 * r + 16, high_i32x16[r]);
  }
}

template <int K>
void grow_f32(const float* x, const float* patterns, int k, size_t blocks, float* t) {
  const int digits = K ? K : k;
  for (size_t b = 0; b < blocks; b++, x += digits, t += kPatterns) {
    __m512 low = _mm512_setzero_ps(), high = _mm512_setzero_ps();
    for (int d = digits; d-- > 0;) {
      const __m512 v = _mm512_set1_ps(x[d]);
      low = _mm512_fmadd_ps(v, _mm512_loadu_ps(patterns + d * kPatterns), low);
      high = _mm512_fmadd_ps(v, _mm512_loadu_ps(patterns + d * kPatterns + 16), high);
    }
    _mm512_storeu_ps(t, low);
    _mm512_storeu_ps(t + 16, high);
  }
}

void grow_f32_any(const float* x, const float* patterns, int k, size_t blocks, void* tables) {
  float* t = static_cast<float*>(tables);
  k == 3 ? grow_f32<3>(x, patterns, k, blocks, t) : grow_f32<0>(x, patterns, k, blocks, t);
}

// A 32-bit lane holds the words of rows 2i (low half) and 2i + 1 (high half): the even rows look
// up with the word as it lies, the odd rows with the word shifted down.
template <int R>
void lookup_f32(const uint16_t* words, size_t height, size_t columns, const void* tables,
                float* y) {
  const __m512i by5 = _mm512_set1_epi16(1 << 11), by10 = _mm512_set1_epi16(1 << 6);
  const float* t = static_cast<const float*>(tables);
  __m512 even_f32x16[R], odd_f32x16[R];
  for (int r = 0; r < R; r++) even_f32x16[r] = odd_f32x16[r] = _mm512_setzero_ps();
  for (size_t g = 0; g < columns; g++, words += height, t += 3 * kPatterns) {
    __m512i even_u32x16[R], odd_u32x16[R];
    for (int r = 0; r < R; r++) {
      prefetch(words + 32 * r);
      even_u32x16[r] = load(words + 32 * r);
      odd_u32x16[r] = _mm512_srli_epi32(even_u32x16[r], 16);
    }
    for (int i = 0; i < 3; i++) {
      const __m512 low = _mm512_loadu_ps(t + i * kPatterns);
      const __m512 high = _mm512_loadu_ps(t + i * kPatterns + 16);
      for (int r = 0; r < R; r++) {
        __m512i even = even_u32x16[r], odd = odd_u32x16[r];
        if (i == 1) even = _mm512_mulhi_epu16(even, by5), odd = _mm512_mulhi_epu16(odd, by5);
        if (i == 2) even = _mm512_mulhi_epu16(even, by10), odd = _mm512_mulhi_epu16(odd, by10);
        even_f32x16[r] = _mm512_add_ps(even_f32x16[r], _mm512_permutex2var_ps(low, even, high));
        odd_f32x16[r] = _mm512_add_ps(odd_f32x16[r], _mm512_permutex2var_ps(low, odd, high));
      }
    }
  }
  const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  for (int r = 0; r < R; r++) {
    _mm512_storeu_ps(y + 32 * r, _mm512_permutex2var_ps(even_f32x16[r], first, odd_f32x16[r]));
    _mm512_storeu_ps(y + 32 * r + 16,
                     _mm512_permutex2var_ps(even_f32x16[r], second, odd_f32x16[r]));
  }
}

void lookup_i8_any(const RankedRows& rows, const void* tables, int32_t* y) {
  const size_t height = rows.end < kStripRows ? rows.end : kStripRows;
  const uint16_t* words = reinterpret_cast<const uint16_t*>(rows.index) + rows.first;
  switch ((rows.last - rows.first) / 32) {
    case 1:
      return lookup_i8<1>(words, height, rows.columns, rows.flush, tables, y);
    case 2:
      return lookup_i8<2>(words, height, rows.columns, rows.flush, tables, y);
    case 3:
      return lookup_i8<3>(words, height, rows.columns, rows.flush, tables, y);
    default:
      return lookup_i8<4>(words, height, rows.columns, rows.flush, tables, y);
  }
}

void lookup_f32_any(const RankedRows& rows, const void* tables, float* y) {
  const size_t height = rows.end < kStripRows ? rows.end : kStripRows;
  const uint16_t* words = reinterpret_cast<const uint16_t*>(rows.index) + rows.first;
  switch ((rows.last - rows.first) / 32) {
    case 1:
      return lookup_f32<1>(words, height, rows.columns, tables, y);
    case 2:
      return lookup_f32<2>(words, height, rows.columns, tables, y);
    case 3:
      return lookup_f32<3>(words, height, rows.columns, tables, y);
    default:
      return lookup_f32<4>(words, height, rows.columns, tables, y);
  }
}

uint64_t plain_read(const void* data, size_t bytes) {
  const char* p = static_cast<const char*>(data);
  __m512i s[4];
  for (auto& v : s) v = _mm512_setzero_si512();
  size_t i = 0;
  for (; i + 256 <= bytes; i += 256)
    for (int j = 0; j < 4; j++) s[j] = _mm512_add_epi64(s[j], load(p + i + 64 * j));
  uint64_t sum = _mm512_reduce_add_epi64(
      _mm512_add_epi64(_mm512_add_epi64(s[0], s[1]), _mm512_add_epi64(s[2], s[3])));
  for (; i < bytes; i++) sum += static_cast<unsigned char>(p[i]);
  return sum;
}

}  // namespace

void fill_avx512(KernelTable& table) {
  table.w16_i8.vector = {kTableBytesI8, 0, grow_i8_any, lookup_i8_any};
  table.w16_f32.vector = {kTableBytesF32, 0, grow_f32_any, lookup_f32_any};
  table.plain_read = plain_read;
}

}  // namespace rsr
