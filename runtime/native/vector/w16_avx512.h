// Packing w16 on AVX-512 (F, BW, VL): the 32 sums of a column block fill one register of int16 or
// two of float32, so adding a block for 32 rows is one in-register lookup of 32 words (vpermw,
// vpermi2ps).
//
// What pays, measured (docs/lab-notes.md):
// * A lookup uses the low five bits of an index and ignores the others: no masking.
// * Multiplications shift the indices (vpmulhuw by 2^11 shifts right by 5). On Zen 4, shifts share
//   a port with the lookups and multiplications do not: +13 % for int8, +30 % for float32.
// * The accumulators of a strip stay in registers, and the index is read once, in order.
//
// Per word column and 32 rows (96 k multiply-adds):
//   int8      3 vpermw, 2 vpmulhuw, 3 vpaddw, 1 load of words, 2 prefetches; tables are memory
//             operands of vpermw. 8 operations: 4 cycles on Sapphire Rapids.
//   float32   6 vpermi2ps, 4 vpmulhuw, 1 vpsrld, 6 vaddps, 1 load of words and, per strip, 6 of
//             tables. 17 operations: 8.5 cycles on Sapphire Rapids.
//
// Internal linkage: each file that includes this compiles its own (table.h).
#pragma once
#include "avx512.h"
#include "table.h"

namespace rsr {
namespace {

constexpr size_t kTableBytesI8 = sizeof(int16_t) * kPatterns;  // of a column block
constexpr size_t kTableBytesF32 = sizeof(float) * kPatterns;
static_assert(kTableBytesI8 == sizeof(__m512i) && kTableBytesF32 == 2 * sizeof(__m512));

// Entries index % 32 of the table at `t`, for 32 words. The table is a memory operand: the compiler
// would keep three tables in registers, which is 10 % faster from cache but leaves DRAM idle for
// longer (docs/lab-notes.md).
inline __m512i entries(const char* t, __m512i index) {
#if defined(__GNUC__)
  __m512i found;
  asm("vpermw %2, %1, %0" : "=v"(found) : "v"(index), "m"(*reinterpret_cast<const __m512i*>(t)));
  return found;
#else
  return _mm512_permutexvar_epi16(index, load(t));
#endif
}

// Loads once; the compiler would otherwise load again for every use.
inline __m512i load_once(const void* p) {
  __m512i v = load(p);
#if defined(__GNUC__)
  asm volatile("" : "+v"(v));
#endif
  return v;
}

// K: k if it is 3 (the patterns then stay in registers); 0: any.
template <int K>
void build_tables_i8(const int8_t* x, const int16_t* patterns, int k, size_t blocks, char* t) {
  const int digits = K ? K : k;
  for (size_t b = 0; b < blocks; b++, x += digits, t += kTableBytesI8) {
    __m512i sum_i16x32 = _mm512_setzero_si512();
    for (int d = 0; d < digits; d++)
      sum_i16x32 = _mm512_add_epi16(
          sum_i16x32, _mm512_mullo_epi16(_mm512_set1_epi16(x[d]), load(patterns + d * kPatterns)));
    _mm512_storeu_si512(t, sum_i16x32);
  }
}

template <int R>
inline void add_words_i8(const uint16_t* words, const char* t, __m512i* sum_i16x32) {
  const __m512i by5 = _mm512_set1_epi16(1 << 11), by10 = _mm512_set1_epi16(1 << 6);
  for (int r = 0; r < R; r++) {
    prefetch(words + 32 * r);
    const __m512i w = load_once(words + 32 * r);
    const __m512i v0 = entries(t, w);
    const __m512i v1 = entries(t + kTableBytesI8, _mm512_mulhi_epu16(w, by5));
    const __m512i v2 = entries(t + 2 * kTableBytesI8, _mm512_mulhi_epu16(w, by10));
    sum_i16x32[r] = _mm512_add_epi16(sum_i16x32[r], _mm512_add_epi16(_mm512_add_epi16(v0, v1), v2));
  }
}

// A 32-bit lane holds the words of rows 2i (low half) and 2i + 1 (high half): the even rows look
// up with the word unshifted, the odd rows with the word shifted down.
template <int R>
inline void add_words_f32(const uint16_t* words, const float* t, __m512* even_f32x16,
                          __m512* odd_f32x16) {
  const __m512i by5 = _mm512_set1_epi16(1 << 11), by10 = _mm512_set1_epi16(1 << 6);
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

}  // namespace
}  // namespace rsr
