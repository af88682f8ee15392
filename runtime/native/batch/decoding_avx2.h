// What tables.h and grouped_tables.h need of an instruction set, AVX2; AVX-512 uses it, too.
//
// Internal linkage: each file that includes this compiles its own (table.h).
#pragma once
#include "avx2.h"
#include "batch/entries.h"

namespace rsr {
namespace {

// Each of the following decodes rows [row, row + count) of one column into the ranks of its kBlocks
// blocks, adjacent bytes of one Ranks per row. A byte is entry << kShift.
struct W16Ranks : W16Entries {
  template <int kShift>
  static void decode(const uint8_t* column, size_t, size_t row, size_t count, Ranks* ranks) {
    const uint16_t* words = reinterpret_cast<const uint16_t*>(column) + row;
    const __m256i low = _mm256_set1_epi16(31 << kShift);
    const __m256i high = _mm256_slli_epi16(low, 8);
    for (size_t r = 0; r < count; r += 16) {
      const __m256i w = load(words + r);
      const __m256i first_two =
          _mm256_or_si256(_mm256_and_si256(_mm256_slli_epi16(w, kShift), low),
                          _mm256_and_si256(_mm256_slli_epi16(w, kShift + 3), high));
      const __m256i third = _mm256_and_si256(_mm256_srli_epi16(w, 10 - kShift), low);
      const __m256i a = _mm256_unpacklo_epi16(first_two, third);  // rows 0-3 and 8-11
      const __m256i b = _mm256_unpackhi_epi16(first_two, third);  // rows 4-7 and 12-15
      store(ranks + r, _mm256_permute2x128_si256(a, b, 0x20));
      store(ranks + r + 8, _mm256_permute2x128_si256(a, b, 0x31));
    }
  }
};

struct N4S1Ranks : N4S1Entries {
  template <int kShift>
  static void decode(const uint8_t* unit, size_t height, size_t row, size_t count, Ranks* ranks) {
    const __m256i magnitude = _mm256_set1_epi8(15 << kShift);
    const __m256i sign = _mm256_set1_epi8(static_cast<char>(16 << kShift));
    for (size_t r = row; r < row + count; r += 32, ranks += 32) {
      const __m256i raw = load(unit + kSignVector * height + r);
      // Bit 7 is the sign of block 0; where its place is bit 6, that of block 1 is there already.
      __m256i signs = _mm256_srli_epi16(raw, 3 - kShift), next = kShift == 3 ? raw : signs;
      __m256i bytes[8];
      for (int i = 0; i < 8; i++) {
        const __m256i v = load(unit + i / 2 * height + r);
        const __m256i nibbles =
            i % 2 ? _mm256_srli_epi16(v, 4 - kShift) : _mm256_slli_epi16(v, kShift);
        bytes[i] =
            _mm256_or_si256(_mm256_and_si256(nibbles, magnitude), _mm256_and_si256(signs, sign));
        next = i == 0 && kShift == 2 ? raw : _mm256_add_epi16(next, next);
        signs = next;
      }
      // Eight bytes of each row together: pairs, fours, eights; lane 1 has rows 16-31.
      for (int h = 0; h < 2; h++) {  // rows 8h to 8h + 7
        __m256i pairs[4];
        for (int i = 0; i < 4; i++)
          pairs[i] = h ? _mm256_unpackhi_epi8(bytes[2 * i], bytes[2 * i + 1])
                       : _mm256_unpacklo_epi8(bytes[2 * i], bytes[2 * i + 1]);
        for (int g = 0; g < 2; g++) {  // rows 8h + 4g to 8h + 4g + 3
          const __m256i a = g ? _mm256_unpackhi_epi16(pairs[0], pairs[1])
                              : _mm256_unpacklo_epi16(pairs[0], pairs[1]);
          const __m256i b = g ? _mm256_unpackhi_epi16(pairs[2], pairs[3])
                              : _mm256_unpacklo_epi16(pairs[2], pairs[3]);
          const __m256i first = _mm256_unpacklo_epi32(a, b), second = _mm256_unpackhi_epi32(a, b);
          store(ranks + 8 * h + 4 * g, _mm256_permute2x128_si256(first, second, 0x20));
          store(ranks + 16 + 8 * h + 4 * g, _mm256_permute2x128_si256(first, second, 0x31));
        }
      }
    }
  }
};

// Adds int16 sums to int32 sums and clears them.
inline void widen(int16_t* tile, int32_t* sums, size_t count) {
  for (size_t i = 0; i < count; i += 8) {
    __m128i* eight = reinterpret_cast<__m128i*>(tile + i);
    store(sums + i,
          _mm256_add_epi32(load(sums + i), _mm256_cvtepi16_epi32(_mm_loadu_si128(eight))));
    _mm_storeu_si128(eight, _mm_setzero_si128());
  }
}

// The scales of a group and `rows` rows, a multiple of 8, the first of which is `first` of those
// wanted.
inline void read_scales(const GroupScales& all, size_t group, size_t first, size_t rows,
                        float* scales) {
  const size_t entry = entry_bytes(all);
  const char* from = scales_at(all, group, first);
  for (size_t r = 0; r < rows; r += 8)
    _mm256_storeu_ps(scales + r, eight_scales(from + r * entry, all.is_half));
}

}  // namespace
}  // namespace rsr
