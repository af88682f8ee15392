// One float32 vector, packing n4s1, AVX2 (n4s1_avx2.h): fixed point, exact until the last step.
//
// With 2^E <= max|x| < 2^(E+1) and unit = 2^(E-26), x is rounded to integers X of units, |X| <
// 2^27. A block's sum |v| < 3 * 2^27 is cut into three parts p0 + 944 p1 + 944^2 p2, |p| <= 472,
// and each part into two digits p = l + 31 h, |l|, |h| <= 15. All sums are exact integers. They are
// joined in double (below 2^53), multiplied by the unit (exact) and rounded to float32 once.
//
// Error: max|x| has 24 significant bits, so it is a multiple of the unit; every other x is rounded
// by at most unit / 2 <= 2^-27 max|x|. With the last rounding and that of the scale:
// (n - 1) 2^-27 max|x| + 2 * 2^-24 sum|x| <= n 2^-24 sum|x| for n >= 3, as sum|x| >= max|x|; for
// n < 3, Matrix promises the bound of n = 3. The result does not depend on the order of additions.
//
// The unit is a double, so denormal and huge x need no care. NaN, infinity and matrices so wide
// that a sum of parts leaves int32 do: they take the plain path, floats by magnitude, row by row.
#include "vector/n4s1_avx2.h"

namespace rsr {
namespace {

struct Header {
  double unit;
  bool plain;  // a table is 16 floats by magnitude
};
constexpr size_t kHeaderBytes = 64, kTableBytes = 96;  // 16 digits l0, h0, l1, h1, l2, h2
constexpr int kBase = 31, kPart = 944, kUnitsPerWiden = 8;
constexpr size_t kMaxBlocks = 0x7fffffff / 472;

// The bits of the largest |x|; at least kInfinity if an x is infinite or NaN. count is a multiple
// of 8, the blocks of a unit.
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

// The exponent of the float with these bits, normal or not; unspecified for zero.
int exponent_of(int32_t bits) {
  const __m128 value = _mm_castsi128_ps(_mm_set1_epi32(bits));
  const __m128d wide = _mm_cvtps_pd(value);  // normal in double
  return static_cast<int>(_mm_cvtsi128_si64(_mm_castpd_si128(wide)) >> 52 & 2047) - 1023;
}

void build_plain_tables(const float* x, const float* patterns, int k, size_t blocks, char* tables) {
  for (size_t b = 0; b < blocks; b++, x += k, tables += kTableBytes) {
    float* t = reinterpret_cast<float*>(tables);
    for (int m = 0; m < 16; m++) {
      t[m] = 0;
      for (int d = k; d-- > 0;) t[m] += patterns[d * kPatterns + N4S1::kZeroRank + m] * x[d];
    }
  }
}

// round(v / by) for eight int32, to the precision of float32.
inline __m256i divide(__m256i v, int by) {
  const __m256 inverse = _mm256_set1_ps(1.0f / static_cast<float>(by));
  return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(v), inverse));
}

inline __m256i times(__m256i v, int by) { return _mm256_mullo_epi32(v, _mm256_set1_epi32(by)); }

// The digits l and h of 16 numbers p, |p| <= 472: p * 1057 / 2^15 is p / 31 to 0.0005, and the
// nearest tie of p / 31 is 0.016 away.
inline void store_digits(char* t, __m256i p_0_7, __m256i p_8_15) {
  const __m256i p = _mm256_permute4x64_epi64(_mm256_packs_epi32(p_0_7, p_8_15), 0xd8);
  store(t, digits_of<kBase>(p));
}

void build_tables(const float* x, const float* patterns, int k, size_t blocks, void* tables) {
  Header* header = static_cast<Header*>(tables);
  char* t = static_cast<char*>(tables) + kHeaderBytes;
  const int32_t largest = largest_bits(x, blocks * k);
  header->plain = largest >= kInfinity || blocks > kMaxBlocks;
  if (header->plain) return build_plain_tables(x, patterns, k, blocks, t);
  const int exponent = largest ? exponent_of(largest) : 0;
  header->unit = power_of_two(exponent - 26);
  const double inverse = power_of_two(26 - exponent);
  __m256i digits[3][2];  // k = 3
  for (int d = 0; d < 3; d++)
    for (int i = 0; i < 2; i++)
      digits[d][i] =
          _mm256_cvtps_epi32(_mm256_loadu_ps(patterns + d * kPatterns + N4S1::kZeroRank + 8 * i));
  for (size_t b = 0; b < blocks; b++, x += k, t += kTableBytes) {
    __m256i p[3][2];
    for (int i = 0; i < 2; i++) {
      __m256i v = _mm256_setzero_si256();
      for (int d = 0; d < 3; d++) {
        const int rounded = _mm_cvtsd_si32(_mm_set_sd(static_cast<double>(x[d]) * inverse));
        v = _mm256_add_epi32(v, _mm256_sign_epi32(_mm256_set1_epi32(rounded), digits[d][i]));
      }
      // A float32 quotient is off by at most 0.0001, so that |p| <= 472 even next to a tie.
      p[2][i] = divide(v, kPart * kPart);
      v = _mm256_sub_epi32(v, times(p[2][i], kPart * kPart));
      p[1][i] = divide(v, kPart);
      p[0][i] = _mm256_sub_epi32(v, times(p[1][i], kPart));
    }
    for (int i = 0; i < 3; i++) store_digits(t + 32 * i, p[i][0], p[i][1]);
  }
}

// Adds the six digits of one block for 32 rows.
inline void add_digits(const char* t, __m256i magnitudes, __m256i signs, __m256i* sums) {
  for (int i = 0; i < 6; i++) {
    const __m256i digit = _mm256_shuffle_epi8(load_twice(t + 16 * i), magnitudes);
    sums[i] = _mm256_add_epi8(sums[i], _mm256_sign_epi8(digit, signs));
  }
}

// Adds one unit for 32 rows: of each part, rows 0-7 and 16-23, then rows 8-15 and 24-31.
inline void add_unit(const uint8_t* unit, size_t height, const char* t, __m256i* parts_i16x16) {
  const __m256i raw = load(unit + N4S1::kSignVector * height);
  __m256i signs = first_signs(raw), digits[6];
  for (auto& sum : digits) sum = _mm256_setzero_si256();
  for (int i = 0; i < 4; i++) {
    const __m256i v = load(unit + i * height);
    add_digits(t + 2 * i * kTableBytes, even_nibbles(v), signs, digits);
    signs = i < 3 ? next_signs(signs) : last_signs(raw);
    add_digits(t + (2 * i + 1) * kTableBytes, odd_nibbles(v), signs, digits);
    signs = next_signs(signs);
  }
  for (int i = 0; i < 3; i++)
    add_joined<kBase>(digits[2 * i], digits[2 * i + 1], parts_i16x16[2 * i],
                      parts_i16x16[2 * i + 1]);
}

// Writes four rows, joining the sums of their parts.
inline void store_rows(const __m128i* parts_i32x4, double unit, float* y) {
  const __m256d part = _mm256_set1_pd(kPart);
  __m256d v = _mm256_cvtepi32_pd(parts_i32x4[2]);
  v = _mm256_fmadd_pd(v, part, _mm256_cvtepi32_pd(parts_i32x4[1]));
  v = _mm256_fmadd_pd(v, part, _mm256_cvtepi32_pd(parts_i32x4[0]));
  _mm_storeu_ps(y, _mm256_cvtpd_ps(_mm256_mul_pd(v, _mm256_set1_pd(unit))));
}

// Bound: eight digits of at most 15 fit a byte, eight units of 8 * 480 fit int16.
template <int R>  // row units
void lookup_fixed(const RankedRows& rows, const char* t, double scale, float* y) {
  const uint8_t* unit = rows.index + rows.first;
  const size_t height = strip_height<N4S1>(rows.end);
  __m256i parts_i32x8[R][3][4];
  for (auto& row : parts_i32x8)
    for (auto& part : row)
      for (auto& sum : part) sum = _mm256_setzero_si256();
  for (size_t u = 0; u < rows.columns;) {
    const size_t stop = min(rows.columns, u + kUnitsPerWiden);
    __m256i parts_i16x16[R][6];
    for (auto& row : parts_i16x16)
      for (auto& sum : row) sum = _mm256_setzero_si256();
    for (; u < stop; u++, unit += N4S1::kCellBytes * height, t += N4S1::kBlocks * kTableBytes) {
      prefetch_unit<R>(unit);
      for (int r = 0; r < R; r++) add_unit(unit + 32 * r, height, t, parts_i16x16[r]);
    }
    for (int r = 0; r < R; r++)
      for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++) {
          const __m256i from = parts_i16x16[r][2 * i + j % 2];
          const __m128i eight =
              j < 2 ? _mm256_castsi256_si128(from) : _mm256_extracti128_si256(from, 1);
          parts_i32x8[r][i][j] =
              _mm256_add_epi32(parts_i32x8[r][i][j], _mm256_cvtepi16_epi32(eight));
        }
  }
  for (int r = 0; r < R; r++)
    for (int j = 0; j < 4; j++) {
      __m128i low[3], high[3];
      for (int i = 0; i < 3; i++) {
        low[i] = _mm256_castsi256_si128(parts_i32x8[r][i][j]);
        high[i] = _mm256_extracti128_si256(parts_i32x8[r][i][j], 1);
      }
      store_rows(low, scale, y + 32 * r + 8 * j);
      store_rows(high, scale, y + 32 * r + 8 * j + 4);
    }
}

void lookup_plain(const RankedRows& rows, const char* tables, float* y) {
  const uint8_t* unit = rows.index + rows.first;
  const size_t height = strip_height<N4S1>(rows.end), count = rows.last - rows.first;
  for (size_t r = 0; r < count; r++) y[r] = 0;
  for (size_t u = 0; u < rows.columns; u++, unit += N4S1::kCellBytes * height) {
    for (size_t j = 0; j < N4S1::kBlocks; j++, tables += kTableBytes) {
      const float* t = reinterpret_cast<const float*>(tables);
      for (size_t r = 0; r < count; r++) {
        const float sum = t[unit[j / 2 * height + r] >> (4 * (j % 2)) & 15];
        y[r] += unit[N4S1::kSignVector * height + r] >> (7 - j) & 1 ? -sum : sum;
      }
    }
  }
}

void lookup(const RankedRows& rows, const void* tables, float* y) {
  const Header& header = *static_cast<const Header*>(tables);
  const char* t = static_cast<const char*>(tables) + kHeaderBytes;
  if (header.plain) return lookup_plain(rows, t, y);
  with_units<N4S1>(rows, [&](auto R) { lookup_fixed<R>(rows, t, header.unit, y); });
}

}  // namespace

void fill_n4s1_f32_avx2(KernelTable& table) {
  table.n4s1_f32.vector = {kTableBytes, kHeaderBytes, build_tables, lookup};
}

}  // namespace rsr
