// Packing n4s1 on AVX2: a rank is 13 plus or minus a magnitude, and the 14 sums of a block by
// magnitude fit vpshufb, which looks up bytes.
//
// A sum is therefore cut into digits of one byte, small enough that the digits of eight blocks add
// up in a byte. The rank's sign applies to each digit alone (vpsignb), and one vpmaddubsw per 16
// rows and unit joins two digits again, in int16.
// int8: |sum| <= 384 = 15 * 25 + 9: digits l + 25 h, |l| <= 12, |h| <= 15.
// float32: fixed point, six digits; see grow_f32.
//
// What pays, measured (docs/performance.md):
// * Signs: bit 7 of a byte is the sign of its next block, and adding the byte to itself brings the
//   one after it up. vpsignb takes zero for sign 0, so bit 0 is set, once for blocks 0 to 6.
// * The prefetch 8 KiB ahead into L2, as for w16.
#include <immintrin.h>

#include "kernels.h"

namespace rsr {
namespace {

constexpr size_t kStripRows = 64, kBlocks = 8, kVectors = 5;  // blocks and vectors of a unit

inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

inline void store(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

inline __m256i load_twice(const char* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

inline void prefetch(const uint8_t* p) {
  _mm_prefetch(reinterpret_cast<const char*>(p) + 8192, _MM_HINT_T1);
}

// The magnitudes of 32 rows in an even or an odd block of a vector.
inline __m256i even_nibbles(__m256i v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
inline __m256i odd_nibbles(__m256i v) {
  return _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15));
}

// The signs of blocks 0 to 6, each after `next`; then those of block 7, from the byte as it was.
inline __m256i first_signs(__m256i signs) { return _mm256_or_si256(signs, _mm256_set1_epi8(1)); }
inline __m256i next_signs(__m256i signs) { return _mm256_add_epi8(signs, signs); }
inline __m256i last_signs(__m256i signs) { return first_signs(_mm256_slli_epi16(signs, 7)); }

constexpr int kBaseI8 = 25;
constexpr size_t kTableBytesI8 = 32;  // 16 digits l by magnitude, then 16 digits h

void grow_i8(const int8_t* x, const int16_t* patterns, int k, size_t blocks, void* tables) {
  // vpmulhrsw is round(v * 1311 / 2^15). With |v| <= 384 that is v / 25 to 0.004, and the nearest
  // tie of v / 25 is 0.02 away: exact rounding.
  const __m256i inverse = _mm256_set1_epi16(1311), base = _mm256_set1_epi16(kBaseI8);
  char* t = static_cast<char*>(tables);
  for (size_t b = 0; b < blocks; b++, x += k, t += kTableBytesI8) {
    __m256i v = _mm256_setzero_si256();
    for (int d = 0; d < k; d++)
      v = _mm256_add_epi16(
          v, _mm256_mullo_epi16(_mm256_set1_epi16(x[d]), load(patterns + d * kPatterns + 13)));
    const __m256i h = _mm256_mulhrs_epi16(v, inverse);
    const __m256i l = _mm256_sub_epi16(v, _mm256_mullo_epi16(h, base));
    store(t, _mm256_permute4x64_epi64(_mm256_packs_epi16(l, h), 0xd8));
  }
}

// Adds the digits of one block for 32 R rows.
template <int R>
inline void add_digits_i8(const char* t, const __m256i* magnitudes, const __m256i* signs,
                          __m256i* l, __m256i* h) {
  const __m256i table_l = load_twice(t), table_h = load_twice(t + 16);
  for (int r = 0; r < R; r++) {
    const __m256i dl = _mm256_shuffle_epi8(table_l, magnitudes[r]);
    const __m256i dh = _mm256_shuffle_epi8(table_h, magnitudes[r]);
    l[r] = _mm256_add_epi8(l[r], _mm256_sign_epi8(dl, signs[r]));
    h[r] = _mm256_add_epi8(h[r], _mm256_sign_epi8(dh, signs[r]));
  }
}

// Bound: eight digits make |l| <= 96 and |h| <= 120, the sums of `flush` units fit int16
// (kernels.h), then they are widened.
template <int R>  // rows / 32
void lookup_i8(const uint8_t* unit, size_t height, size_t units, size_t flush, const char* t,
               int32_t* y) {
  const __m256i join = _mm256_set1_epi16(kBaseI8 << 8 | 1);
  for (int r = 0; r < 32 * R; r++) y[r] = 0;
  for (size_t u = 0; u < units;) {
    const size_t stop = units - u < flush ? units : u + flush;
    __m256i low_i16x16[R], high_i16x16[R];  // rows 0-7 and 16-23, 8-15 and 24-31
    for (int r = 0; r < R; r++) low_i16x16[r] = high_i16x16[r] = _mm256_setzero_si256();
    for (; u < stop; u++, unit += kVectors * height, t += kBlocks * kTableBytesI8) {
      __m256i l[R], h[R], raw[R], signs[R], v[R], m[R];
      for (size_t line = 0; line < kVectors * 32 * R; line += 64) prefetch(unit + line);
      for (int r = 0; r < R; r++) {
        l[r] = h[r] = _mm256_setzero_si256();
        raw[r] = load(unit + 4 * height + 32 * r);
        signs[r] = first_signs(raw[r]);
      }
      for (int i = 0; i < 4; i++) {
        for (int r = 0; r < R; r++) {
          v[r] = load(unit + i * height + 32 * r);
          m[r] = even_nibbles(v[r]);
        }
        add_digits_i8<R>(t + 2 * i * kTableBytesI8, m, signs, l, h);
        for (int r = 0; r < R; r++) {
          signs[r] = i < 3 ? next_signs(signs[r]) : last_signs(raw[r]);
          m[r] = odd_nibbles(v[r]);
        }
        add_digits_i8<R>(t + (2 * i + 1) * kTableBytesI8, m, signs, l, h);
        for (int r = 0; r < R; r++) signs[r] = next_signs(signs[r]);
      }
      for (int r = 0; r < R; r++) {
        const __m256i low = _mm256_maddubs_epi16(join, _mm256_unpacklo_epi8(l[r], h[r]));
        const __m256i high = _mm256_maddubs_epi16(join, _mm256_unpackhi_epi8(l[r], h[r]));
        low_i16x16[r] = _mm256_add_epi16(low_i16x16[r], low);
        high_i16x16[r] = _mm256_add_epi16(high_i16x16[r], high);
      }
    }
    for (int r = 0; r < R; r++) {
      const __m128i in_order[4] = {
          _mm256_castsi256_si128(low_i16x16[r]), _mm256_castsi256_si128(high_i16x16[r]),
          _mm256_extracti128_si256(low_i16x16[r], 1), _mm256_extracti128_si256(high_i16x16[r], 1)};
      for (int i = 0; i < 4; i++) {
        int32_t* out = y + 32 * r + 8 * i;
        store(out, _mm256_add_epi32(load(out), _mm256_cvtepi16_epi32(in_order[i])));
      }
    }
  }
}

void lookup_i8_any(const RankedRows& rows, const void* tables, int32_t* y) {
  const size_t height = rows.end < kStripRows ? rows.end : kStripRows;
  const uint8_t* unit = rows.index + rows.first;
  const char* t = static_cast<const char*>(tables);
  rows.last - rows.first > 32 ? lookup_i8<2>(unit, height, rows.columns, rows.flush, t, y)
                              : lookup_i8<1>(unit, height, rows.columns, rows.flush, t, y);
}

}  // namespace

void fill_n4s1_avx2(KernelTable& table) {
  table.n4s1_i8.vector = {kTableBytesI8, 0, grow_i8, lookup_i8_any};
}

}  // namespace rsr
