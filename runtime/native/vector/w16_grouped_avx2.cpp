// One vector, packing w16 with scales of groups of columns, AVX2.
//
// As in packing n4s1 (n4s1_avx2.h), the sums of a column block are cut into digits of one byte, of
// base 43: l + 43 h with |l|, |h| <= 21, so that the digits of six blocks (two words) add up in a
// byte. A table has 32 entries (w16_avx2.h), which serves any patterns.
//
// int8: a sum is one part l + 43 h, |sum| <= 128 kMaxK = 640 < 910. Sums are exact.
// float32: fixed point. A run of at most 36 blocks of a group has a unit, the largest |x| / X with
// X = kLargest / (k D), where D is the largest magnitude of a digit, 1 or 2, and k D is at most
// kMaxK = 5. A block's sum of integers, at most kLargest, is cut into parts
// p0 + 1818 p1 + 1818^2 p2, |p0|, |p1| <= 910, |p2| <= 21: five digits.
//
// Error (float32), in multiples of D: each x is rounded by half a unit, at most 2^-24.7 max|x|;
// |p0 + 1818 p1| < 2^26 is rounded to float32 by at most two units, and not at all for ten blocks
// or fewer. With the roundings of the factors, of their sum and of the additions to y, a run of n
// inputs has at most (0.6 n + 7) 2^-24 sum|x|, then 2^-24 |y| for each further run; together at
// most n 2^-24 sum|scale||x| for all n inputs, as a group has at least 16. Narrower groups take the
// plain path, floats row by row, as do NaN, infinity and x of less than 2^-100 or more than 2^100.
//
// Per block and 32 rows, with more than 16 patterns: int8 4 vpshufb, 2 vpor, 2 vpaddb; float32 10,
// 5 and 5; both 2 vpand, 1.3 vpsrlw, 1 vpackuswb, 2 vpaddb; per six blocks 6 for each two digits.
// Without loads 15 and 29 operations on three ports: 5 and 10 cycles on Sapphire Rapids for 32 k
// multiply-adds.
#include "vector/fixed_point_avx2.h"
#include "vector/group_scales_avx2.h"
#include "vector/w16_avx2.h"

namespace rsr {
namespace {

constexpr int kBase = 43, kPart = 1818;
constexpr size_t kBlocksPerJoin = 6, kBlocksPerRun = 36, kMinColumns = 16;
constexpr double kLargest = 70e6;  // < 21.4 kPart^2
constexpr int kDigitsI8 = 2, kDigitsF32 = 5;
constexpr size_t kTableBytesI8 = 32 * kDigitsI8, kTableBytesF32 = 32 * kDigitsF32;

// Stores 16 of the 32 entries of one part: digit l, and 32 bytes on digit h.
inline void store_digits(char* t, __m256i part_i16x16) {
  const __m256i digits = digits_of<kBase>(part_i16x16);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(t), _mm256_castsi256_si128(digits));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(t + 32), _mm256_extracti128_si256(digits, 1));
}

void build_tables_i8(const int8_t* x, const int16_t* patterns, int k, const Grouping& grouping,
                     void* tables) {
  char* t = static_cast<char*>(tables);
  for (size_t b = 0; b < grouping.blocks; b++, x += k, t += kTableBytesI8)
    for (int half = 0; half < 2; half++)
      store_digits(t + 16 * half, sums_of(x, patterns + 16 * half, k));
}

// Calls body(first block, end, group) with the runs of all groups, in order.
template <class Body>
inline void for_each_run(const Grouping& grouping, const Body& body) {
  for (size_t b = 0, g = 0; b < grouping.blocks; g++)
    for (const size_t end = group_end(grouping, b); b < end;) {
      const size_t stop = min(end, b + kBlocksPerRun);
      body(b, stop, g);
      b = stop;
    }
}

// The float32 tables of a column block in units.
inline void build_table_f32(const float* x, const float* patterns, int k, double inverse, char* t) {
  __m256i rounded[kMaxK];
  for (int d = 0; d < k; d++)
    rounded[d] = _mm256_set1_epi32(_mm_cvtsd_si32(_mm_set_sd(static_cast<double>(x[d]) * inverse)));
  for (int half = 0; half < 2; half++) {
    __m256i parts[3][2];
    for (int i = 0; i < 2; i++) {
      __m256i v = _mm256_setzero_si256();
      for (int d = 0; d < k; d++) {
        const float* digits = patterns + d * kPatterns + 16 * half + 8 * i;
        v = _mm256_add_epi32(
            v, _mm256_mullo_epi32(rounded[d], _mm256_cvtps_epi32(_mm256_loadu_ps(digits))));
      }
      parts[2][i] = divide(v, kPart * kPart);
      v = _mm256_sub_epi32(v, times(parts[2][i], kPart * kPart));
      parts[1][i] = divide(v, kPart);
      parts[0][i] = _mm256_sub_epi32(v, times(parts[1][i], kPart));
    }
    __m256i p[3];
    for (int i = 0; i < 3; i++)
      p[i] = _mm256_permute4x64_epi64(_mm256_packs_epi32(parts[i][0], parts[i][1]), 0xd8);
    store_digits(t + 16 * half, p[0]);
    store_digits(t + 64 + 16 * half, p[1]);
    const __m128i last =
        _mm_packs_epi16(_mm256_castsi256_si128(p[2]), _mm256_extracti128_si256(p[2], 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(t + 128 + 16 * half), last);
  }
}

// Tables of floats: 32 entries of a column block.
void build_plain_tables(const float* x, const float* patterns, int k, size_t blocks, char* tables) {
  for (size_t b = 0; b < blocks; b++, x += k, tables += kTableBytesF32) {
    float* t = reinterpret_cast<float*>(tables);
    for (int p = 0; p < kPatterns; p++) t[p] = 0;
    for (int d = k; d-- > 0;)
      for (int p = 0; p < kPatterns; p++) t[p] += patterns[d * kPatterns + p] * x[d];
  }
}

void build_tables_f32(const float* x, const float* patterns, int k, const Grouping& grouping,
                      void* tables) {
  Header* header = static_cast<Header*>(tables);
  char* t = static_cast<char*>(tables) + kHeaderBytes;
  float* unit = units_of(t, grouping.blocks, kTableBytesF32);
  header->plain = grouping.blocks_per_group * k < kMinColumns;
  const double largest_x = kLargest / (k * largest_digit(patterns, k));  // in units
  for_each_run(grouping, [&](size_t b, size_t end, size_t) {
    const int32_t largest = largest_bits(x + b * k, (end - b) * k);
    const int exponent = largest ? exponent_of(largest) : 0;
    if (exponent < -kMaxExponent || exponent > kMaxExponent) header->plain = true;
    if (header->plain) return;
    const double most =
        largest ? static_cast<double>(_mm_cvtss_f32(_mm_castsi128_ps(_mm_set1_epi32(largest)))) : 1;
    *unit++ = static_cast<float>(most / largest_x);
    for (; b < end; b++)
      build_table_f32(x + b * k, patterns, k, largest_x / most, t + b * kTableBytesF32);
  });
  if (header->plain) build_plain_tables(x, patterns, k, grouping.blocks, t);
}

// Adds the digits of one block for 32 rows, whose ranks are in two vectors of 16 words.
template <int D, bool HasFewPatterns>
inline void add_digits(__m256i w0, __m256i w1, const char* t, __m256i* digits) {
  const Lookup<HasFewPatterns> lookup(w0, w1);
  for (int i = 0; i < D; i++) digits[i] = _mm256_add_epi8(digits[i], lookup(t + 32 * i));
}

// Adds blocks [b, end) for 32 rows: of each part, rows 0-15, then rows 16-31.
// Bound: digits of at most 21 of six blocks fit a byte; 36 parts of 910 fit int16.
template <int D, bool HasFewPatterns>
inline void add_blocks(const uint16_t* words, size_t height, size_t b, size_t end, const char* t,
                       __m256i* parts_i16x16) {
  constexpr size_t kBytes = 32 * D;
  const uint16_t* w = words + b / W16::kBlocks * height;
  for (size_t j = b % W16::kBlocks; b < end;) {
    __m256i digits[D];
    for (auto& sum : digits) sum = _mm256_setzero_si256();
    // Where a run begins inside a word, the first step ends with a word.
    const size_t most = j == 0 ? kBlocksPerJoin : kBlocksPerJoin - j;
    for (size_t left = min(end - b, most); left > 0;) {
      const __m256i w0 = load(w), w1 = load(w + 16);
      const size_t n = j == 0 && left >= W16::kBlocks ? W16::kBlocks : 1;
      if (n == W16::kBlocks) {
        for (int i = 0; i < 3; i++)
          add_digits<D, HasFewPatterns>(_mm256_srli_epi16(w0, 5 * i), _mm256_srli_epi16(w1, 5 * i),
                                        t + kBytes * i, digits);
      } else {
        const __m128i shift = _mm_cvtsi32_si128(static_cast<int>(W16::kRankBits * j));
        add_digits<D, HasFewPatterns>(_mm256_srl_epi16(w0, shift), _mm256_srl_epi16(w1, shift), t,
                                      digits);
      }
      b += n, left -= n, j += n, t += n * kBytes;
      if (j == W16::kBlocks) j = 0, w += height;
    }
    for (int i = 0; i + 1 < D; i += 2)
      add_joined<kBase>(digits[i], digits[i + 1], parts_i16x16[i], parts_i16x16[i + 1]);
    if constexpr (D % 2)
      add_joined<0>(digits[D - 1], digits[D - 1], parts_i16x16[D - 1], parts_i16x16[D]);
  }
}

// Calls finish(group, row, parts of a run) for each 32 rows and each run.
template <int D, bool HasFewPatterns, class Finish>
inline void lookup_runs(const RankedRows& rows, const GroupScales& scales, const char* t,
                        const Finish& finish) {
  const uint16_t* words = words_of(rows);
  const size_t height = strip_height<W16>(rows.end), count = rows.last - rows.first;
  for_each_run(scales.grouping, [&](size_t b, size_t end, size_t g) {
    prefetch_scales(scales, g, count);
    for (size_t column = b / W16::kBlocks; column < end / W16::kBlocks; column++)
      for (size_t line = 0; line < count; line += 32) prefetch(words + column * height + line);
    for (size_t r = 0; r < count; r += 32) {
      __m256i parts_i16x16[D + D % 2];
      for (auto& sum : parts_i16x16) sum = _mm256_setzero_si256();
      add_blocks<D, HasFewPatterns>(words + r, height, b, end, t + 32 * D * b, parts_i16x16);
      finish(b, end, g, r, parts_i16x16);
    }
  });
}

template <bool HasFewPatterns>
void lookup_grouped_i8(const RankedRows& rows, const GroupScales& scales, const void* tables,
                       float* y) {
  const size_t count = rows.last - rows.first;
  alignas(32) int32_t sums[W16::kStripRows] = {};  // of a group so far
  for (size_t r = 0; r < count; r++) y[r] = 0;
  lookup_runs<kDigitsI8, HasFewPatterns>(
      rows, scales, static_cast<const char*>(tables),
      [&](size_t, size_t end, size_t g, size_t row, const __m256i* parts_i16x16) {
        const bool is_last =
            end == scales.grouping.blocks || end % scales.grouping.blocks_per_group == 0;
        const GroupFactors factors(scales, g);
        for (size_t i = 0; i < 4; i++) {
          const __m256i sixteen = parts_i16x16[i / 2];
          const __m128i eight =
              i % 2 ? _mm256_extracti128_si256(sixteen, 1) : _mm256_castsi256_si128(sixteen);
          int32_t* before = sums + row + 8 * i;
          const __m256i sum = _mm256_add_epi32(load(before), _mm256_cvtepi16_epi32(eight));
          store(before, is_last ? _mm256_setzero_si256() : sum);
          if (is_last) factors.add_scaled(row + 8 * i, _mm256_cvtepi32_ps(sum), y);
        }
      });
}

template <bool HasFewPatterns>
void lookup_grouped_fixed(const RankedRows& rows, const GroupScales& scales, const char* t,
                          float* y) {
  const float* unit = units_of(t, scales.grouping.blocks, kTableBytesF32);
  const size_t count = rows.last - rows.first;
  for (size_t r = 0; r < count; r++) y[r] = 0;
  lookup_runs<kDigitsF32, HasFewPatterns>(
      rows, scales, t, [&](size_t, size_t, size_t g, size_t row, const __m256i* parts_i16x16) {
        __m256 sums[4];
        join_parts<kPart>(parts_i16x16, *unit, sums);
        const GroupFactors factors(scales, g);
        for (size_t i = 0; i < 4; i++)  // rows 0, 8, 16, 24 and those after
          factors.add_scaled(row + 8 * i, sums[i / 2 + i % 2 * 2], y);
        if (row + 32 == count) unit++;
      });
}

void lookup_grouped_plain(const RankedRows& rows, const GroupScales& scales, const char* tables,
                          float* y) {
  const uint16_t* words = words_of(rows);
  const size_t height = strip_height<W16>(rows.end), count = rows.last - rows.first;
  for (size_t r = 0; r < count; r++) y[r] = 0;
  for (size_t b = 0, g = 0; b < scales.grouping.blocks; g++) {
    alignas(32) float sums[W16::kStripRows] = {};
    for (const size_t end = group_end(scales.grouping, b); b < end; b++) {
      const float* t = reinterpret_cast<const float*>(tables + b * kTableBytesF32);
      const uint16_t* w = words + b / W16::kBlocks * height;
      for (size_t r = 0; r < count; r++)
        sums[r] += t[w[r] >> W16::kRankBits * (b % W16::kBlocks) & 31];
    }
    const GroupFactors factors(scales, g);
    for (size_t r = 0; r < count; r += 8) factors.add_scaled(r, _mm256_load_ps(sums + r), y);
  }
}

void lookup_grouped_i8_any(const RankedRows& rows, const GroupScales& scales, const void* tables,
                           float* y) {
  with_few_patterns(rows, [&](auto few) { lookup_grouped_i8<few>(rows, scales, tables, y); });
}

void lookup_grouped_f32(const RankedRows& rows, const GroupScales& scales, const void* tables,
                        float* y) {
  const char* t = static_cast<const char*>(tables) + kHeaderBytes;
  if (static_cast<const Header*>(tables)->plain) return lookup_grouped_plain(rows, scales, t, y);
  with_few_patterns(rows, [&](auto few) { lookup_grouped_fixed<few>(rows, scales, t, y); });
}

}  // namespace

void fill_w16_grouped_avx2(KernelTable& table) {
  auto& i8 = table.w16_i8.vector;
  i8.table_bytes = i8.table_bytes < kTableBytesI8 ? kTableBytesI8 : i8.table_bytes;
  i8.lookup_grouped = lookup_grouped_i8_any;
  i8.build_grouped_tables = build_tables_i8;
  auto& f32 = table.w16_f32.vector;
  f32.table_bytes = kTableBytesF32 + kUnitBytes;
  f32.header_bytes = kHeaderBytes;
  f32.lookup_grouped = lookup_grouped_f32;
  f32.build_grouped_tables = build_tables_f32;
}

}  // namespace rsr
