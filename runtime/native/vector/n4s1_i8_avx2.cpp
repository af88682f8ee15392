// One int8 vector, packing n4s1, AVX2 (n4s1_avx2.h): |sum| <= 384 = 15 * 25 + 9, so the digits of
// l + 25 h are |l| <= 12, |h| <= 15.
//
// Per unit and 64 rows (1536 multiply-adds): 32 vpshufb, 32 vpsignb, 16 vbroadcasti128, 40 vpaddb,
// 16 vpand, 8 vpsrlw, 4 vpmaddubsw, 14 others, 36 moves to and from the stack. Without loads and
// moves, 146 operations on three ports: 49 cycles on Sapphire Rapids.
#include "vector/n4s1_avx2.h"

namespace rsr {
namespace {

constexpr int kBase = 25;
constexpr size_t kTableBytes = 32;  // 16 digits l by magnitude, then 16 digits h

void build_tables(const int8_t* x, const int16_t* patterns, int k, size_t blocks, void* tables) {
  // |v| <= 384: v * 1311 / 2^15 is v / 25 to 0.004, and the nearest tie of v / 25 is 0.02 away.
  char* t = static_cast<char*>(tables);
  for (size_t b = 0; b < blocks; b++, x += k, t += kTableBytes)
    store(t, digits_of<kBase>(sums_of(x, patterns + N4S1::kZeroRank, k)));
}

// Adds the digits of one block for 32 R rows.
template <int R>
inline void add_digits(const char* t, const __m256i* magnitudes, const __m256i* signs, __m256i* l,
                       __m256i* h) {
  const __m256i table_l = load_twice(t), table_h = load_twice(t + 16);
  for (int r = 0; r < R; r++) {
    const __m256i dl = _mm256_shuffle_epi8(table_l, magnitudes[r]);
    const __m256i dh = _mm256_shuffle_epi8(table_h, magnitudes[r]);
    l[r] = _mm256_add_epi8(l[r], _mm256_sign_epi8(dl, signs[r]));
    h[r] = _mm256_add_epi8(h[r], _mm256_sign_epi8(dh, signs[r]));
  }
}

// Bound: eight digits make |l| <= 96 and |h| <= 120; an int16 sum takes columns_per_widen units
// (packing.h), then it is widened.
template <int R>  // row units
void lookup_units(const RankedRows& rows, const void* tables, int32_t* y) {
  const uint8_t* unit = rows.index + rows.first;
  const size_t height = strip_height<N4S1>(rows.end);
  const char* t = static_cast<const char*>(tables);
  for (int r = 0; r < 32 * R; r++) y[r] = 0;
  for (size_t u = 0; u < rows.columns;) {
    const size_t stop = min(rows.columns, u + rows.columns_per_widen);
    __m256i low_i16x16[R], high_i16x16[R];  // rows 0-7 and 16-23, 8-15 and 24-31
    for (int r = 0; r < R; r++) low_i16x16[r] = high_i16x16[r] = _mm256_setzero_si256();
    for (; u < stop; u++, unit += N4S1::kCellBytes * height, t += N4S1::kBlocks * kTableBytes) {
      __m256i l[R], h[R], raw[R], signs[R], v[R], m[R];
      prefetch_unit<R>(unit);
      for (int r = 0; r < R; r++) {
        l[r] = h[r] = _mm256_setzero_si256();
        raw[r] = load(unit + N4S1::kSignVector * height + 32 * r);
        signs[r] = first_signs(raw[r]);
      }
      for (int i = 0; i < 4; i++) {
        for (int r = 0; r < R; r++) {
          v[r] = load(unit + i * height + 32 * r);
          m[r] = even_nibbles(v[r]);
        }
        add_digits<R>(t + 2 * i * kTableBytes, m, signs, l, h);
        for (int r = 0; r < R; r++) {
          signs[r] = i < 3 ? next_signs(signs[r]) : last_signs(raw[r]);
          m[r] = odd_nibbles(v[r]);
        }
        add_digits<R>(t + (2 * i + 1) * kTableBytes, m, signs, l, h);
        for (int r = 0; r < R; r++) signs[r] = next_signs(signs[r]);
      }
      for (int r = 0; r < R; r++) add_joined<kBase>(l[r], h[r], low_i16x16[r], high_i16x16[r]);
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

void lookup(const RankedRows& rows, const void* tables, int32_t* y) {
  with_units<N4S1>(rows, [&](auto R) { lookup_units<R>(rows, tables, y); });
}

}  // namespace

void fill_n4s1_i8_avx2(KernelTable& table) {
  table.n4s1_i8.vector = {kTableBytes, 0, build_tables, lookup};
}

}  // namespace rsr
