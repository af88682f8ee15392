// One int8 vector, packing n4s1, NEON (n4s1_neon.h): |sum| <= 384 = 15 * 25 + 9, so the digits of
// l + 25 h are |l| <= 12, |h| <= 15. The digits of eight blocks, or their complements, add up to
// -128 to 120, in a byte.
//
// Per unit and 16 rows (384 multiply-adds): 16 tbl, 16 uaba, 8 cmtst, 4 and, 4 ushr, 2 saddw,
// 2 smlal, 1 cnt, 1 add: 54 operations; 5 loads of the index and, for 32 rows at once, 8 of tables.
// A run ends in 26.
#include "vector/group_scales_neon.h"
#include "vector/n4s1_neon.h"

namespace rsr {
namespace {

constexpr int kBase = 25;
constexpr size_t kTableBytes = 32;  // 16 digits l by magnitude, then 16 digits h

void build_tables(const int8_t* x, const int16_t* patterns, int k, size_t blocks, void* tables) {
  int8_t* t = static_cast<int8_t*>(tables);
  for (size_t b = 0; b < blocks; b++, x += k, t += kTableBytes)
    for (int half = 0; half < 2; half++) {
      int16x8_t sums = vdupq_n_s16(0);
      for (int d = 0; d < k; d++)
        sums = vmlaq_n_s16(sums, vld1q_s16(patterns + d * kPatterns + N4S1::kZeroRank + 8 * half),
                           x[d]);
      // round(sum * 1311 / 2^15) is the nearest integer to sum / 25: they differ by 0.004 before
      // rounding, and the nearest tie is 0.02 away.
      const int16x8_t h = vqrdmulhq_n_s16(sums, (32768 + kBase / 2) / kBase);
      vst1_s8(t + 8 * half, vmovn_s16(vmlsq_n_s16(sums, h, kBase)));
      vst1_s8(t + 16 + 8 * half, vmovn_s16(h));
    }
}

// Sums of a run for 16 rows, without what the negative ranks lack.
struct Sums {
  int16x8_t low = vdupq_n_s16(0), high = vdupq_n_s16(0);  // rows 0-7 and 8-15
  uint8x16_t negative = vdupq_n_u8(0);

  void add(int8x16_t l, int8x16_t h, uint8x16_t negative_of_unit) {
    low = vmlal_s8(vaddw_s8(low, vget_low_s8(l)), vget_low_s8(h), vdup_n_s8(kBase));
    high = vmlal_high_s8(vaddw_high_s8(high, l), h, vdupq_n_s8(kBase));
    negative = vaddq_u8(negative, negative_of_unit);
  }

  // Adds the sums to those of 16 rows.
  // Bound: an int16 sum takes the blocks of columns_per_widen units (packing.h), of which at most
  // 80 are negative; on the way it may wrap.
  void add_to(int32_t* sums_i32x16) const {
    const uint8x16_t lacks = vdupq_n_u8(1 + kBase);  // each digit lacks 1
    const int16x8_t whole[2] = {
        vreinterpretq_s16_u16(
            vmlal_u8(vreinterpretq_u16_s16(low), vget_low_u8(negative), vget_low_u8(lacks))),
        vreinterpretq_s16_u16(vmlal_high_u8(vreinterpretq_u16_s16(high), negative, lacks))};
    for (int i = 0; i < 2; i++, sums_i32x16 += 8) {
      vst1q_s32(sums_i32x16, vaddw_s16(vld1q_s32(sums_i32x16), vget_low_s16(whole[i])));
      vst1q_s32(sums_i32x16 + 4, vaddw_high_s16(vld1q_s32(sums_i32x16 + 4), whole[i]));
    }
  }
};

// Adds a unit of N blocks for 32 rows.
template <int N>
inline void add_unit(const uint8_t* unit, size_t height, const uint8_t* t, Sums* sums) {
  prefetch_unit<N>(unit, height);
  SixteenRows<N> rows[2] = {{unit, height}, {unit + 16, height}};
  uint8x16_t l[2], h[2];
  for (int r = 0; r < 2; r++) l[r] = h[r] = vdupq_n_u8(0);
#pragma GCC unroll 8
  for (int j = 0; j < N; j++, t += kTableBytes) {
    const uint8x16_t table_l = vld1q_u8(t), table_h = vld1q_u8(t + 16);
#pragma GCC unroll 2
    for (int r = 0; r < 2; r++) {
      const uint8x16_t magnitudes = rows[r].magnitudes(j), negative = rows[r].negative(j);
      l[r] = vabaq_u8(l[r], vqtbl1q_u8(table_l, magnitudes), negative);
      h[r] = vabaq_u8(h[r], vqtbl1q_u8(table_h, magnitudes), negative);
    }
  }
  for (int r = 0; r < 2; r++)
    sums[r].add(vreinterpretq_s8_u8(l[r]), vreinterpretq_s8_u8(h[r]), rows[r].count_negative());
}

// Calls finish(group, sums) with the int32 sums of each group.
template <class Finish>
void lookup_groups(const RankedRows& rows, const Grouping& grouping, const void* tables,
                   const Finish& finish) {
  const size_t height = strip_height<N4S1>(rows.end), count = rows.last - rows.first;
  const uint8_t* unit = rows.index + rows.first;
  const uint8_t* t = static_cast<const uint8_t*>(tables);
  for (size_t b = 0, g = 0; b < grouping.blocks; g++) {
    int32_t sums_i32[N4S1::kStripRows] = {};
    for (const size_t end = group_end(grouping, b); b < end;) {
      const UnitRun run(end - b, rows.columns_per_widen);
      for (size_t r = 0; r < count; r += 32) {
        Sums sums[2];
        for_each_unit<kTableBytes>(run, unit + r, height, t,
                                   [&](const uint8_t* at, const uint8_t* table, auto N) {
                                     add_unit<N>(at, height, table, sums);
                                   });
        for (int i = 0; i < 2; i++) sums[i].add_to(sums_i32 + r + 16 * i);
      }
      unit += bytes_of(run) * height;
      t += run.blocks() * kTableBytes;
      b += run.blocks();
    }
    finish(g, sums_i32);
  }
}

void lookup_grouped(const RankedRows& rows, const GroupScales& scales, const void* tables,
                    float* y) {
  const size_t count = rows.last - rows.first;
  for (size_t r = 0; r < count; r++) y[r] = 0;
  lookup_groups(rows, scales.grouping, tables, [&](size_t g, const int32_t* sums) {
    prefetch_scales(scales, g, count);
    const GroupFactors factors(scales, g);
    for (size_t r = 0; r < count; r += 4)
      factors.add_scaled(r, vcvtq_f32_s32(vld1q_s32(sums + r)), y);
  });
}

// Without groups, all blocks are one group of whole units.
void lookup(const RankedRows& rows, const void* tables, int32_t* y) {
  const size_t blocks = rows.columns * N4S1::kBlocks, count = rows.last - rows.first;
  const Grouping grouping = rows.grouping.blocks ? rows.grouping : Grouping{blocks, blocks};
  for (size_t r = 0; r < count; r++) y[r] = 0;
  lookup_groups(rows, grouping, tables, [&](size_t, const int32_t* sums) {
    for (size_t r = 0; r < count; r++) y[r] += sums[r];
  });
}

}  // namespace

void fill_n4s1_i8_neon(KernelTable& table) {
  table.n4s1_i8.vector = {kTableBytes, 0, build_tables, lookup, lookup_grouped};
}

}  // namespace rsr
