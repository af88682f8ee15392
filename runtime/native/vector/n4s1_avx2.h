// Packing n4s1 on AVX2: the 14 sums of a block by magnitude fit vpshufb, which looks up bytes.
//
// A sum is cut into digits of one byte, small enough that the digits of eight blocks add up in a
// byte. The sign of a rank applies to each digit (vpsignb). One vpmaddubsw per 16 rows and unit
// joins two digits, in int16.
//
// What pays, measured (docs/lab-notes.md):
// * Signs: bit 7 of a byte is the sign of its next block; adding the byte to itself brings up the
//   bit after it. vpsignb yields zero for sign 0, so bit 0 is set, once for blocks 0 to 6.
// * The prefetch (avx2.h).
//
// Internal linkage: each file that includes this compiles its own (table.h).
#pragma once
#include "avx2.h"
#include "vector/n4s1.h"

namespace rsr {
namespace {

// The magnitudes of 32 rows in an even or an odd block of a vector.
inline __m256i even_nibbles(__m256i v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
inline __m256i odd_nibbles(__m256i v) {
  return _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15));
}

// The signs of blocks 0 to 6: first_signs, then next_signs once per block. last_signs: of block 7.
// Both start from the byte of the index.
inline __m256i first_signs(__m256i signs) { return _mm256_or_si256(signs, _mm256_set1_epi8(1)); }
inline __m256i next_signs(__m256i signs) { return _mm256_add_epi8(signs, signs); }
inline __m256i last_signs(__m256i signs) { return first_signs(_mm256_slli_epi16(signs, 7)); }

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

// Prefetches a unit of n blocks and 32 R rows.
template <int R>
inline void prefetch_unit(const uint8_t* unit, size_t n = N4S1::kBlocks) {
  for (size_t line = 0; line < N4S1::unit_bytes(n) * kRowUnit * R; line += 64)
    prefetch(unit + line);
}

}  // namespace
}  // namespace rsr
