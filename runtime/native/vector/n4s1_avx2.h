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
#include "vector/fixed_point_avx2.h"
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

// Prefetches a unit of n blocks and 32 R rows.
template <int R>
inline void prefetch_unit(const uint8_t* unit, size_t n = N4S1::kBlocks) {
  for (size_t line = 0; line < N4S1::unit_bytes(n) * kRowUnit * R; line += 64)
    prefetch(unit + line);
}

}  // namespace
}  // namespace rsr
