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

#include "table.h"

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

// float32: fixed point, exact until the last step.
//
// With 2^E <= max|x| < 2^(E+1) and unit = 2^(E-26), x is rounded to integers X of units, |X| <
// 2^27. A block's sum |v| < 3 * 2^27 is cut into three numbers p0 + 944 p1 + 944^2 p2, |p| <= 472,
// and each into two digits p = l + 31 h, |l|, |h| <= 15. All sums are exact integers, joined in
// double (below 2^53), multiplied by the unit (exact) and rounded to float32 once.
//
// Error: an x that is no multiple of the unit has fewer than 26 - 23 bits below max|x|'s last, so
// max|x| itself is exact and the others are off by at most unit / 2 <= 2^-27 max|x|. With the last
// rounding and that of the scale: (n - 1) 2^-27 max|x| + 2 * 2^-24 sum|x| <= n 2^-24 sum|x| for
// n >= 3, as sum|x| >= max|x|; Matrix promises no less than that of n = 3. It does not grow with
// the order of additions, and the result is the same for every order.
//
// The unit is a double, so neither denormal nor huge x needs care. NaN and infinity do, and so
// would matrices so wide that a sum of p leaves int32: both take the plain way, floats by
// magnitude, one row at a time.
struct HeaderF32 {
  double unit;
  bool plain;  // tables are 16 floats by magnitude
};
constexpr size_t kHeaderBytes = 64, kTableBytesF32 = 96;  // 16 digits l0, h0, l1, h1, l2, h2
constexpr int kBaseF32 = 31, kPartF32 = 944, kFlushF32 = 8;
constexpr size_t kMostBlocksF32 = 0x7fffffff / 472;

// The largest |x|, as bits; at least kInfinity if one is infinite or NaN. count: a multiple of 8.
constexpr int32_t kInfinity = 0x7f800000;
int32_t largest_bits(const float* x, size_t count) {
  __m256i most = _mm256_setzero_si256();
  for (size_t i = 0; i < count; i += 8)
    most = _mm256_max_epi32(most, _mm256_and_si256(load(x + i), _mm256_set1_epi32(0x7fffffff)));
  alignas(32) int32_t lanes[8];
  store(lanes, most);
  int32_t largest = 0;
  for (int32_t lane : lanes) largest = lane > largest ? lane : largest;
  return largest;
}

double power_of_two(int exponent) {
  const long long bits = static_cast<long long>(1023 + exponent) << 52;
  return _mm_cvtsd_f64(_mm_castsi128_pd(_mm_set1_epi64x(bits)));
}

// E of the float with these bits, normal or not; any for zero.
int exponent_of(int32_t bits) {
  const __m128 value = _mm_castsi128_ps(_mm_set1_epi32(bits));
  const __m128d wide = _mm_cvtps_pd(value);  // normal in double
  return static_cast<int>(_mm_cvtsi128_si64(_mm_castpd_si128(wide)) >> 52 & 2047) - 1023;
}

void grow_plain(const float* x, const float* patterns, int k, size_t blocks, char* tables) {
  for (size_t b = 0; b < blocks; b++, x += k, tables += kTableBytesF32) {
    float* t = reinterpret_cast<float*>(tables);
    for (int m = 0; m < 16; m++) {
      t[m] = 0;
      for (int d = k; d-- > 0;) t[m] += patterns[d * kPatterns + 13 + m] * x[d];
    }
  }
}

// round(v / by) for eight int32, to float32's precision.
inline __m256i divide(__m256i v, int by) {
  const __m256 inverse = _mm256_set1_ps(1.0f / static_cast<float>(by));
  return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(v), inverse));
}

inline __m256i times(__m256i v, int by) { return _mm256_mullo_epi32(v, _mm256_set1_epi32(by)); }

// The digits l and h of 16 numbers p; vpmulhrsw divides by 31 as grow_i8 does by 25: right to
// 0.0005, and the nearest tie is 0.016 away.
inline void store_digits(char* t, __m256i p_0_7, __m256i p_8_15) {
  const __m256i p = _mm256_permute4x64_epi64(_mm256_packs_epi32(p_0_7, p_8_15), 0xd8);
  const __m256i h = _mm256_mulhrs_epi16(p, _mm256_set1_epi16(1057));
  const __m256i l = _mm256_sub_epi16(p, _mm256_mullo_epi16(h, _mm256_set1_epi16(kBaseF32)));
  store(t, _mm256_permute4x64_epi64(_mm256_packs_epi16(l, h), 0xd8));
}

void grow_f32(const float* x, const float* patterns, int k, size_t blocks, void* tables) {
  HeaderF32* header = static_cast<HeaderF32*>(tables);
  char* t = static_cast<char*>(tables) + kHeaderBytes;
  const int32_t largest = largest_bits(x, blocks * k);
  header->plain = largest >= kInfinity || blocks > kMostBlocksF32;
  if (header->plain) return grow_plain(x, patterns, k, blocks, t);
  const int exponent = largest ? exponent_of(largest) : 0;
  header->unit = power_of_two(exponent - 26);
  const double inverse = power_of_two(26 - exponent);
  __m256i digits[3][2];  // k = 3
  for (int d = 0; d < 3; d++)
    for (int i = 0; i < 2; i++)
      digits[d][i] = _mm256_cvtps_epi32(_mm256_loadu_ps(patterns + d * kPatterns + 13 + 8 * i));
  for (size_t b = 0; b < blocks; b++, x += k, t += kTableBytesF32) {
    __m256i p[3][2];
    for (int i = 0; i < 2; i++) {
      __m256i v = _mm256_setzero_si256();
      for (int d = 0; d < 3; d++) {
        const int rounded = _mm_cvtsd_si32(_mm_set_sd(static_cast<double>(x[d]) * inverse));
        v = _mm256_add_epi32(v, _mm256_sign_epi32(_mm256_set1_epi32(rounded), digits[d][i]));
      }
      // float32 puts a quotient at most 0.0001 beyond a tie: hence |p| <= 472 and not 480.
      p[2][i] = divide(v, kPartF32 * kPartF32);
      v = _mm256_sub_epi32(v, times(p[2][i], kPartF32 * kPartF32));
      p[1][i] = divide(v, kPartF32);
      p[0][i] = _mm256_sub_epi32(v, times(p[1][i], kPartF32));
    }
    for (int i = 0; i < 3; i++) store_digits(t + 32 * i, p[i][0], p[i][1]);
  }
}

// Adds the six digits of one block for 32 rows.
inline void add_digits_f32(const char* t, __m256i magnitudes, __m256i signs, __m256i* sums) {
  for (int i = 0; i < 6; i++) {
    const __m256i digit = _mm256_shuffle_epi8(load_twice(t + 16 * i), magnitudes);
    sums[i] = _mm256_add_epi8(sums[i], _mm256_sign_epi8(digit, signs));
  }
}

// Adds one unit for 32 rows: for each part the rows 0-7 and 16-23, then 8-15 and 24-31.
inline void add_unit_f32(const uint8_t* unit, size_t height, const char* t, __m256i* parts_i16x16) {
  const __m256i join = _mm256_set1_epi16(kBaseF32 << 8 | 1);
  const __m256i raw = load(unit + 4 * height);
  __m256i signs = first_signs(raw), digits[6];
  for (auto& sum : digits) sum = _mm256_setzero_si256();
  for (int i = 0; i < 4; i++) {
    const __m256i v = load(unit + i * height);
    add_digits_f32(t + 2 * i * kTableBytesF32, even_nibbles(v), signs, digits);
    signs = i < 3 ? next_signs(signs) : last_signs(raw);
    add_digits_f32(t + (2 * i + 1) * kTableBytesF32, odd_nibbles(v), signs, digits);
    signs = next_signs(signs);
  }
  for (int i = 0; i < 3; i++) {
    const __m256i l = digits[2 * i], h = digits[2 * i + 1];
    const __m256i low = _mm256_maddubs_epi16(join, _mm256_unpacklo_epi8(l, h));
    const __m256i high = _mm256_maddubs_epi16(join, _mm256_unpackhi_epi8(l, h));
    parts_i16x16[2 * i] = _mm256_add_epi16(parts_i16x16[2 * i], low);
    parts_i16x16[2 * i + 1] = _mm256_add_epi16(parts_i16x16[2 * i + 1], high);
  }
}

// Four rows at a time, from the sums of their parts.
inline void store_rows_f32(const __m128i* parts_i32x4, double unit, float* y) {
  const __m256d part = _mm256_set1_pd(kPartF32);
  __m256d v = _mm256_cvtepi32_pd(parts_i32x4[2]);
  v = _mm256_fmadd_pd(v, part, _mm256_cvtepi32_pd(parts_i32x4[1]));
  v = _mm256_fmadd_pd(v, part, _mm256_cvtepi32_pd(parts_i32x4[0]));
  _mm_storeu_ps(y, _mm256_cvtpd_ps(_mm256_mul_pd(v, _mm256_set1_pd(unit))));
}

// Bound: eight digits of at most 15 fit a byte, eight units of 8 * 480 fit int16.
template <int R>  // rows / 32
void lookup_fixed(const uint8_t* unit, size_t height, size_t units, const char* t, double scale,
                  float* y) {
  __m256i parts_i32x8[R][3][4];
  for (auto& row : parts_i32x8)
    for (auto& part : row)
      for (auto& sum : part) sum = _mm256_setzero_si256();
  for (size_t u = 0; u < units;) {
    const size_t stop = units - u < kFlushF32 ? units : u + kFlushF32;
    __m256i parts_i16x16[R][6];
    for (auto& row : parts_i16x16)
      for (auto& sum : row) sum = _mm256_setzero_si256();
    for (; u < stop; u++, unit += kVectors * height, t += kBlocks * kTableBytesF32) {
      for (size_t line = 0; line < kVectors * 32 * R; line += 64) prefetch(unit + line);
      for (int r = 0; r < R; r++) add_unit_f32(unit + 32 * r, height, t, parts_i16x16[r]);
    }
    for (int r = 0; r < R; r++)
      for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++) {
          const __m256i from = parts_i16x16[r][2 * i + j % 2];
          const __m128i rows =
              j < 2 ? _mm256_castsi256_si128(from) : _mm256_extracti128_si256(from, 1);
          parts_i32x8[r][i][j] =
              _mm256_add_epi32(parts_i32x8[r][i][j], _mm256_cvtepi16_epi32(rows));
        }
  }
  for (int r = 0; r < R; r++)
    for (int j = 0; j < 4; j++) {
      __m128i low[3], high[3];
      for (int i = 0; i < 3; i++) {
        low[i] = _mm256_castsi256_si128(parts_i32x8[r][i][j]);
        high[i] = _mm256_extracti128_si256(parts_i32x8[r][i][j], 1);
      }
      store_rows_f32(low, scale, y + 32 * r + 8 * j);
      store_rows_f32(high, scale, y + 32 * r + 8 * j + 4);
    }
}

void lookup_plain(const uint8_t* unit, size_t height, size_t units, const char* tables,
                  size_t count, float* y) {
  for (size_t r = 0; r < count; r++) y[r] = 0;
  for (size_t u = 0; u < units; u++, unit += kVectors * height) {
    for (size_t j = 0; j < kBlocks; j++, tables += kTableBytesF32) {
      const float* t = reinterpret_cast<const float*>(tables);
      for (size_t r = 0; r < count; r++) {
        const float sum = t[unit[j / 2 * height + r] >> (4 * (j % 2)) & 15];
        y[r] += unit[4 * height + r] >> (7 - j) & 1 ? -sum : sum;
      }
    }
  }
}

void lookup_f32(const RankedRows& rows, const void* tables, float* y) {
  const HeaderF32& header = *static_cast<const HeaderF32*>(tables);
  const char* t = static_cast<const char*>(tables) + kHeaderBytes;
  const size_t height = rows.end < kStripRows ? rows.end : kStripRows;
  const size_t count = rows.last - rows.first;
  const uint8_t* unit = rows.index + rows.first;
  if (header.plain) return lookup_plain(unit, height, rows.columns, t, count, y);
  count > 32 ? lookup_fixed<2>(unit, height, rows.columns, t, header.unit, y)
             : lookup_fixed<1>(unit, height, rows.columns, t, header.unit, y);
}

}  // namespace

void fill_n4s1_avx2(KernelTable& table) {
  table.n4s1_i8.vector = {kTableBytesI8, 0, grow_i8, lookup_i8_any};
  table.n4s1_f32.vector = {kTableBytesF32, kHeaderBytes, grow_f32, lookup_f32};
}

}  // namespace rsr
