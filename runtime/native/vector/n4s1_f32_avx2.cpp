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
//
// Groups of columns: each run of at most 64 blocks of a group has its own unit, the E of its x.
// |p| <= 64 * 472 fits int16, so a run ends in some 45 instructions for 32 rows: vpmaddwd joins p0
// and p1 exactly, |p0 + 944 p1| < 2^25, which float32 rounds by at most a unit, or not at all for
// one block. With the rounding to float32 and that of the addition to y:
// (n + 1) 2^-27 max|x| + 2^-24 |sum| for a run of n inputs, then 2^-24 |y| for each run; together
// at most n 2^-24 sum|scale||x| for all n inputs if there are three blocks or more. Fewer take the
// plain path, as do x of less than 2^-100 or more than 2^100, whose units leave float32.
#include "vector/fixed_point_avx2.h"
#include "vector/group_scales_avx2.h"
#include "vector/n4s1_avx2.h"

namespace rsr {
namespace {

constexpr size_t kTableBytes = 96;  // 16 digits l0, h0, l1, h1, l2, h2
constexpr int kBase = 31, kPart = 944, kUnitsPerWiden = 8;
constexpr size_t kMaxBlocks = 0x7fffffff / 472;

void build_plain_tables(const float* x, const float* patterns, int k, size_t blocks, char* tables) {
  for (size_t b = 0; b < blocks; b++, x += k, tables += kTableBytes) {
    float* t = reinterpret_cast<float*>(tables);
    for (int m = 0; m < 16; m++) {
      t[m] = 0;
      for (int d = k; d-- > 0;) t[m] += patterns[d * kPatterns + N4S1::kZeroRank + m] * x[d];
    }
  }
}

// The digits l and h of 16 numbers p, |p| <= 472: p * 1057 / 2^15 is p / 31 to 0.0005, and the
// nearest tie of p / 31 is 0.016 away.
inline void store_digits(char* t, __m256i p_0_7, __m256i p_8_15) {
  const __m256i p = _mm256_permute4x64_epi64(_mm256_packs_epi32(p_0_7, p_8_15), 0xd8);
  store(t, digits_of<kBase>(p));
}

// Bin_3 by magnitude, int32.
struct Digits {
  __m256i of[3][2];

  explicit Digits(const float* patterns) {
    for (int d = 0; d < 3; d++)
      for (int i = 0; i < 2; i++)
        of[d][i] =
            _mm256_cvtps_epi32(_mm256_loadu_ps(patterns + d * kPatterns + N4S1::kZeroRank + 8 * i));
  }
};

// The tables of blocks whose x are below 2^27 units.
void build_fixed_tables(const float* x, const Digits& digits, double unit, size_t blocks, char* t) {
  const double inverse = 1 / unit;
  for (size_t b = 0; b < blocks; b++, x += 3, t += kTableBytes) {
    __m256i p[3][2];
    for (int i = 0; i < 2; i++) {
      __m256i v = _mm256_setzero_si256();
      for (int d = 0; d < 3; d++) {
        const int rounded = _mm_cvtsd_si32(_mm_set_sd(static_cast<double>(x[d]) * inverse));
        v = _mm256_add_epi32(v, _mm256_sign_epi32(_mm256_set1_epi32(rounded), digits.of[d][i]));
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

void build_tables(const float* x, const float* patterns, int k, size_t blocks, void* tables) {
  Header* header = static_cast<Header*>(tables);
  char* t = static_cast<char*>(tables) + kHeaderBytes;
  const int32_t largest = largest_bits(x, blocks * k);
  header->plain = largest >= kInfinity || blocks > kMaxBlocks;
  if (header->plain) return build_plain_tables(x, patterns, k, blocks, t);
  header->unit = power_of_two((largest ? exponent_of(largest) : 0) - 26);
  build_fixed_tables(x, Digits(patterns), header->unit, blocks, t);
}

// Calls body(run, first block, group) with the runs of all groups, in order.
template <class Body>
inline void for_each_run(const Grouping& grouping, const Body& body) {
  for (size_t b = 0, g = 0; b < grouping.blocks; g++)
    for (const size_t end = group_end(grouping, b); b < end;) {
      const UnitRun run(end - b, kUnitsPerWiden);
      body(run, b, g);
      b += run.blocks();
    }
}

void build_grouped_tables(const float* x, const float* patterns, int k, const Grouping& grouping,
                          void* tables) {
  Header* header = static_cast<Header*>(tables);
  char* t = static_cast<char*>(tables) + kHeaderBytes;
  const Digits digits(patterns);
  header->plain = grouping.blocks < 3;
  float* unit = units_of(t, grouping.blocks, kTableBytes);
  for_each_run(grouping, [&](const UnitRun& run, size_t b, size_t) {
    const int32_t largest = largest_bits(x + b * k, run.blocks() * k);
    const int exponent = largest ? exponent_of(largest) : 0;
    if (exponent < -kMaxExponent || exponent > kMaxExponent) header->plain = true;
    if (header->plain) return;
    *unit++ = static_cast<float>(power_of_two(exponent - 26));
    build_fixed_tables(x + b * k, digits, unit[-1], run.blocks(), t + b * kTableBytes);
  });
  if (header->plain) build_plain_tables(x, patterns, k, grouping.blocks, t);
}

// Adds the six digits of one block for 32 rows.
inline void add_digits(const char* t, __m256i magnitudes, __m256i signs, __m256i* sums) {
  for (int i = 0; i < 6; i++) {
    const __m256i digit = _mm256_shuffle_epi8(load_twice(t + 16 * i), magnitudes);
    sums[i] = _mm256_add_epi8(sums[i], _mm256_sign_epi8(digit, signs));
  }
}

// Adds a unit of n blocks for 32 rows: of each part, rows 0-7 and 16-23, then rows 8-15 and 24-31.
inline void add_unit(const uint8_t* unit, size_t height, size_t n, const char* t,
                     __m256i* parts_i16x16) {
  const __m256i raw = load(unit + (N4S1::unit_bytes(n) - 1) * height);
  __m256i signs = first_signs(raw), digits[6];
  for (auto& sum : digits) sum = _mm256_setzero_si256();
#pragma GCC unroll 1  // otherwise GCC moves the sums to the stack: 1.2 times the time
  for (size_t j = 0; j < n; j += 2, unit += height, t += 2 * kTableBytes) {
    const __m256i v = load(unit);
    add_digits(t, even_nibbles(v), signs, digits);
    if (j + 1 == n) break;
    signs = j < 6 ? next_signs(signs) : last_signs(raw);
    add_digits(t + kTableBytes, odd_nibbles(v), signs, digits);
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
      for (int r = 0; r < R; r++)
        add_unit(unit + 32 * r, height, N4S1::kBlocks, t, parts_i16x16[r]);
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

// Adds a unit of n blocks with tables of floats.
void add_plain_unit(const uint8_t* unit, size_t height, size_t n, const char* tables, size_t count,
                    float* y) {
  const uint8_t* signs = unit + (N4S1::unit_bytes(n) - 1) * height;
  for (size_t j = 0; j < n; j++, tables += kTableBytes) {
    const float* t = reinterpret_cast<const float*>(tables);
    for (size_t r = 0; r < count; r++) {
      const float sum = t[unit[j / 2 * height + r] >> (4 * (j % 2)) & 15];
      y[r] += signs[r] >> (7 - j) & 1 ? -sum : sum;
    }
  }
}

void lookup_plain(const RankedRows& rows, const char* t, float* y) {
  const uint8_t* unit = rows.index + rows.first;
  const size_t height = strip_height<N4S1>(rows.end), count = rows.last - rows.first;
  for (size_t r = 0; r < count; r++) y[r] = 0;
  for (size_t u = 0; u < rows.columns; u++) {
    add_plain_unit(unit, height, N4S1::kBlocks, t, count, y);
    unit += N4S1::kCellBytes * height;
    t += N4S1::kBlocks * kTableBytes;
  }
}

void lookup(const RankedRows& rows, const void* tables, float* y) {
  const Header& header = *static_cast<const Header*>(tables);
  const char* t = static_cast<const char*>(tables) + kHeaderBytes;
  if (header.plain) return lookup_plain(rows, t, y);
  with_units<N4S1>(rows, [&](auto R) { lookup_fixed<R>(rows, t, header.unit, y); });
}

template <int R>
void lookup_grouped_fixed(const RankedRows& rows, const GroupScales& scales, const char* t,
                          float* y) {
  const uint8_t* unit = rows.index + rows.first;
  const size_t height = strip_height<N4S1>(rows.end);
  const float* run_unit = units_of(t, scales.grouping.blocks, kTableBytes);
  for (int r = 0; r < 32 * R; r++) y[r] = 0;
  for_each_run(scales.grouping, [&](const UnitRun& run, size_t, size_t g) {
    __m256i parts_i16x16[R][6];
    for (auto& row : parts_i16x16)
      for (auto& sum : row) sum = _mm256_setzero_si256();
    for (size_t u = 0; u < run.units; u++) {
      prefetch_unit<R>(unit);
      for (int r = 0; r < R; r++)
        add_unit(unit + 32 * r, height, N4S1::kBlocks, t, parts_i16x16[r]);
      unit += N4S1::kCellBytes * height;
      t += N4S1::kBlocks * kTableBytes;
    }
    if (const size_t n = run.short_blocks) {
      prefetch_unit<R>(unit, n);
      for (int r = 0; r < R; r++) add_unit(unit + 32 * r, height, n, t, parts_i16x16[r]);
      unit += N4S1::unit_bytes(n) * height;
      t += n * kTableBytes;
    }
    prefetch_scales(scales, g, 32 * R);
    const GroupFactors factors(scales, g);
    for (int r = 0; r < R; r++) {
      __m256 sums[4];
      join_parts<kPart>(parts_i16x16[r], *run_unit, sums);
      for (int i = 0; i < 4; i++) factors.add_scaled(32 * r + 8 * i, sums[i], y);
    }
    run_unit++;
  });
}

void lookup_grouped_plain(const RankedRows& rows, const GroupScales& scales, const char* t,
                          float* y) {
  const uint8_t* unit = rows.index + rows.first;
  const size_t height = strip_height<N4S1>(rows.end), count = rows.last - rows.first;
  for (size_t r = 0; r < count; r++) y[r] = 0;
  for (size_t b = 0, g = 0; b < scales.grouping.blocks; g++) {
    alignas(32) float sums[N4S1::kStripRows] = {};
    for (const size_t end = group_end(scales.grouping, b); b < end;) {
      const size_t n = min(end - b, N4S1::kBlocks);
      add_plain_unit(unit, height, n, t, count, sums);
      unit += N4S1::unit_bytes(n) * height;
      t += n * kTableBytes;
      b += n;
    }
    const GroupFactors factors(scales, g);
    for (size_t r = 0; r < count; r += 8) factors.add_scaled(r, _mm256_load_ps(sums + r), y);
  }
}

void lookup_grouped(const RankedRows& rows, const GroupScales& scales, const void* tables,
                    float* y) {
  const Header& header = *static_cast<const Header*>(tables);
  const char* t = static_cast<const char*>(tables) + kHeaderBytes;
  if (header.plain) return lookup_grouped_plain(rows, scales, t, y);
  with_units<N4S1>(rows, [&](auto R) { lookup_grouped_fixed<R>(rows, scales, t, y); });
}

}  // namespace

void fill_n4s1_f32_avx2(KernelTable& table) {
  table.n4s1_f32.vector = {kTableBytes + kUnitBytes, kHeaderBytes,        build_tables, lookup,
                           lookup_grouped,           build_grouped_tables};
}

}  // namespace rsr
