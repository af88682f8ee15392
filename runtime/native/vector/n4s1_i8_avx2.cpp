// One int8 vector, packing n4s1, AVX2 (n4s1_avx2.h): |sum| <= 384 = 15 * 25 + 9, so the digits of
// l + 25 h are |l| <= 12, |h| <= 15.
//
// Per unit and 64 rows (1536 multiply-adds): 32 vpshufb, 32 vpsignb, 32 vbroadcasti128, 40 vpaddb,
// 16 vpand, 8 vpsrlw, 4 vpmaddubsw, 14 others. Without loads, 146 operations on three ports: 49
// cycles on Sapphire Rapids. A group ends in some 35 more for 32 rows.
#include "vector/group_scales_avx2.h"
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

// Calls body(block, magnitudes, signs) with each block of a unit of N blocks (packing.h), for R
// times 32 rows. It is unrolled: in a loop over pairs of blocks, the kernel takes 1.15 times as
// long.
template <int N, int R, class Body>
inline void for_each_block(const uint8_t* unit, size_t height, const Body& body) {
  __m256i raw[R], signs[R], v[R], magnitudes[R];
  for (int r = 0; r < R; r++) {
    raw[r] = load(unit + (N4S1::unit_bytes(N) - 1) * height + 32 * r);
    signs[r] = first_signs(raw[r]);
  }
#pragma GCC unroll 8
  for (int j = 0; j < N; j++) {
    for (int r = 0; r < R; r++) {
      if (j % 2 == 0) v[r] = load(unit + j / 2 * height + 32 * r);
      magnitudes[r] = j % 2 ? odd_nibbles(v[r]) : even_nibbles(v[r]);
      if (j > 0) signs[r] = j < 7 ? next_signs(signs[r]) : last_signs(raw[r]);
    }
    body(j, magnitudes, signs);
  }
}

// Adds a unit of N blocks for 32 R rows to int16 sums: for each 32 rows, of rows 0-7 and 16-23, and
// of 8-15 and 24-31. Bound: the digits of eight blocks make |l| <= 96 and |h| <= 120.
template <int N, int R>
inline void add_unit(const uint8_t* unit, size_t height, const char* t, __m256i (*sums_i16x16)[2]) {
  __m256i l[R], h[R];
  for (int r = 0; r < R; r++) l[r] = h[r] = _mm256_setzero_si256();
  for_each_block<N, R>(unit, height, [&](int j, const __m256i* magnitudes, const __m256i* signs) {
    const __m256i table_l = load_twice(t + j * kTableBytes),
                  table_h = load_twice(t + j * kTableBytes + 16);
    for (int r = 0; r < R; r++) {
      const __m256i dl = _mm256_shuffle_epi8(table_l, magnitudes[r]);
      const __m256i dh = _mm256_shuffle_epi8(table_h, magnitudes[r]);
      l[r] = _mm256_add_epi8(l[r], _mm256_sign_epi8(dl, signs[r]));
      h[r] = _mm256_add_epi8(h[r], _mm256_sign_epi8(dh, signs[r]));
    }
  });
  for (int r = 0; r < R; r++) add_joined<kBase>(l[r], h[r], sums_i16x16[r][0], sums_i16x16[r][1]);
}

// Adds int16 sums of 32 rows, as add_unit leaves them, to int32 sums in row order.
inline void add_widened(const __m256i* sums_i16x16, __m256i* sums_i32x8) {
  for (int i = 0; i < 2; i++) {
    const __m128i first = _mm256_castsi256_si128(sums_i16x16[i]),
                  second = _mm256_extracti128_si256(sums_i16x16[i], 1);
    sums_i32x8[i] = _mm256_add_epi32(sums_i32x8[i], _mm256_cvtepi16_epi32(first));
    sums_i32x8[2 + i] = _mm256_add_epi32(sums_i32x8[2 + i], _mm256_cvtepi16_epi32(second));
  }
}

// Where the units of a strip are read: the next unit, and the table of its first block.
struct Position {
  const uint8_t* unit;
  size_t height;
  const char* t;

  Position(const RankedRows& rows, const void* tables)
      : unit(rows.index + rows.first),
        height(strip_height<N4S1>(rows.end)),
        t(static_cast<const char*>(tables)) {}

  template <int N>
  void advance() {
    unit += N4S1::unit_bytes(N) * height;
    t += N * kTableBytes;
  }
};

// Adds the next units, then a short unit if there is one, for 32 R rows.
// Bound: an int16 sum takes the blocks of columns_per_widen units (packing.h).
template <int R>
inline void add_run(const UnitRun& run, Position& at, __m256i (*sums_i32x8)[4]) {
  __m256i sums_i16x16[R][2];
  for (auto& row : sums_i16x16) row[0] = row[1] = _mm256_setzero_si256();
  for (size_t u = 0; u < run.units; u++) {
    prefetch_unit<R>(at.unit);
    add_unit<N4S1::kBlocks, R>(at.unit, at.height, at.t, sums_i16x16);
    at.advance<N4S1::kBlocks>();
  }
  with_blocks(run.short_blocks, [&](auto N) {
    prefetch_unit<R>(at.unit, N);
    add_unit<N, R>(at.unit, at.height, at.t, sums_i16x16);
    at.advance<N>();
  });
  for (int r = 0; r < R; r++) add_widened(sums_i16x16[r], sums_i32x8[r]);
}

// Calls finish(group, sums) with the int32 sums of each group, in row order.
template <int R, class Finish>
void lookup_groups(const RankedRows& rows, const Grouping& grouping, const void* tables,
                   const Finish& finish) {
  Position at(rows, tables);
  for (size_t b = 0, g = 0; b < grouping.blocks; g++) {
    __m256i sums_i32x8[R][4];
    for (auto& row : sums_i32x8)
      for (auto& sum : row) sum = _mm256_setzero_si256();
    for (const size_t end = group_end(grouping, b); b < end;) {
      const UnitRun run(end - b, rows.columns_per_widen);
      add_run<R>(run, at, sums_i32x8);
      b += run.blocks();
    }
    finish(g, sums_i32x8[0]);
  }
}

void lookup_grouped(const RankedRows& rows, const GroupScales& scales, const void* tables,
                    float* y) {
  with_units<N4S1>(rows, [&](auto R) {
    for (int r = 0; r < 32 * R; r++) y[r] = 0;
    lookup_groups<R>(rows, scales.grouping, tables, [&](size_t g, const __m256i* sums) {
      prefetch_scales(scales, g, 32 * R);
      const GroupFactors factors(scales, g);
      for (int i = 0; i < 4 * R; i++) factors.add_scaled(8 * i, _mm256_cvtepi32_ps(sums[i]), y);
    });
  });
}

// Without groups, all blocks are one group of whole units.
void lookup(const RankedRows& rows, const void* tables, int32_t* y) {
  const size_t blocks = rows.columns * N4S1::kBlocks;
  const Grouping grouping = rows.grouping.blocks ? rows.grouping : Grouping{blocks, blocks};
  with_units<N4S1>(rows, [&](auto R) {
    for (int r = 0; r < 32 * R; r++) y[r] = 0;
    lookup_groups<R>(rows, grouping, tables, [&](size_t, const __m256i* sums) {
      for (int i = 0; i < 4 * R; i++) store(y + 8 * i, _mm256_add_epi32(load(y + 8 * i), sums[i]));
    });
  });
}

}  // namespace

void fill_n4s1_i8_avx2(KernelTable& table) {
  table.n4s1_i8.vector = {kTableBytes, 0, build_tables, lookup, lookup_grouped};
}

}  // namespace rsr
