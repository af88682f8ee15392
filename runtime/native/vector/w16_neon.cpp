// One vector, packing w16, NEON: tbl looks up a rank in two registers, the 32 bytes of a plane of a
// table.
//
// int8: the planes are the low and the high bytes of int16 sums. Low bytes are added in 16 bits,
// high bytes in 8: |sum| <= 128 kMaxK = 640, so a high byte is -3 to 2, and those of 42 blocks fit.
// float32: four planes (planes_neon.h).
//
// Ranks of 16 rows: uzp1 and uzp2 divide words into low and high bytes, of which and, ushr and sli
// make the three ranks.
//
// Per word column and 16 rows (48 k multiply-adds): 2 uzp, 3 and, 2 ushr, 1 sli; int8 6 tbl, 6
// uaddw, 3 add: 23 operations; float32 12 tbl and 24 uaddw: 44. A run ends in some 14 for int8 and
// 60 for float32.
#include "vector/group_scales_neon.h"
#include "vector/planes_neon.h"
#include "vector/w16_plain.h"

namespace rsr {
namespace {

// The ranks of 16 rows in the three blocks of a word.
struct Words {
  uint8x16_t low, high;

  explicit Words(const uint16_t* words) {
    const uint8x16_t first = vreinterpretq_u8_u16(vld1q_u16(words)),
                     second = vreinterpretq_u8_u16(vld1q_u16(words + 8));
    low = vuzp1q_u8(first, second), high = vuzp2q_u8(first, second);
  }

  uint8x16_t ranks(size_t j) const {
    const uint8x16_t bits = j == 0   ? low
                            : j == 1 ? vsliq_n_u8(vshrq_n_u8(low, 5), high, 3)
                                     : vshrq_n_u8(high, 2);
    return vandq_u8(bits, vdupq_n_u8(31));
  }
};

// The bytes that ranks select in a plane of 32.
inline uint8x16_t look_up(const uint8_t* plane, uint8x16_t ranks) {
  return vqtbl2q_u8(vld1q_u8_x2(plane), ranks);
}

// Sums of a run of 16 rows, of int8 inputs.
struct SumsI8 {
  static constexpr size_t kTableBytes = 2 * kPatterns, kBlocksPerRun = 42;
  static_assert(kBlocksPerRun * 3 < 128 && kBlocksPerRun * kMaxMagnitude * kMaxK < 32768);

  uint16x8_t low = vdupq_n_u16(0), high = vdupq_n_u16(0);  // of low bytes: rows 0-7 and 8-15
  uint8x16_t high_bytes = vdupq_n_u8(0);

  explicit SumsI8(size_t) {}

  void add(const uint8_t* t, uint8x16_t ranks) {
    const uint8x16_t bytes = look_up(t, ranks);
    low = vaddw_u8(low, vget_low_u8(bytes));
    high = vaddw_high_u8(high, bytes);
    high_bytes = vaddq_u8(high_bytes, look_up(t + kPatterns, ranks));
  }

  // Adds the sums to those of 16 rows.
  void add_to(int32_t* sums_i32x16) const {
    const int8x16_t upper = vreinterpretq_s8_u8(high_bytes);
    const int16x8_t whole[2] = {
        vaddq_s16(vreinterpretq_s16_u16(low), vshll_n_s8(vget_low_s8(upper), 8)),
        vaddq_s16(vreinterpretq_s16_u16(high), vshll_high_n_s8(upper, 8))};
    for (int i = 0; i < 2; i++, sums_i32x16 += 8) {
      vst1q_s32(sums_i32x16, vaddw_s16(vld1q_s32(sums_i32x16), vget_low_s16(whole[i])));
      vst1q_s32(sums_i32x16 + 4, vaddw_high_s16(vld1q_s32(sums_i32x16 + 4), whole[i]));
    }
  }
};

// Of float32 inputs.
struct SumsF32 : PlaneSums {
  static constexpr size_t kTableBytes = kPlanes * kPatterns, kBlocksPerRun = 96;
  static_assert(kBlocksPerRun <= 255);

  using PlaneSums::PlaneSums;

  void add(const uint8_t* t, uint8x16_t ranks) {
#pragma GCC unroll 4
    for (int i = 0; i < kPlanes; i++) {
      const uint8x16_t bytes = look_up(t + i * kPatterns, ranks);
      low[i] = vaddw_u8(low[i], vget_low_u8(bytes));
      high[i] = vaddw_high_u8(high[i], bytes);
    }
  }
};

// Calls body(first block, end, group) with the runs of all groups, in order.
template <class Sums, class Body>
inline void for_each_run(const Grouping& grouping, const Body& body) {
  for (size_t b = 0, g = 0; b < grouping.blocks; g++)
    for (const size_t end = group_end(grouping, b); b < end;) {
      const size_t stop = min(end, b + Sums::kBlocksPerRun);
      body(b, stop, g);
      b = stop;
    }
}

// Adds blocks [b, end) for 32 rows. A run may begin and end inside a word.
template <class Sums>
inline void add_blocks(const uint16_t* words, size_t height, size_t b, size_t end, const uint8_t* t,
                       Sums* sums) {
  const uint16_t* w = words + b / W16::kBlocks * height;
  for (size_t j = b % W16::kBlocks; b < end; w += height, j = 0) {
    const Words rows[2] = {Words(w), Words(w + 16)};
    const size_t stop = min(j + end - b, W16::kBlocks);
    if (stop - j == W16::kBlocks) {
#pragma GCC unroll 3
      for (size_t i = 0; i < W16::kBlocks; i++)
#pragma GCC unroll 2
        for (int r = 0; r < 2; r++) sums[r].add(t + i * Sums::kTableBytes, rows[r].ranks(i));
    } else {
      for (size_t i = j; i < stop; i++)
        for (int r = 0; r < 2; r++) sums[r].add(t + (i - j) * Sums::kTableBytes, rows[r].ranks(i));
    }
    t += (stop - j) * Sums::kTableBytes;
    b += stop - j;
  }
}

// Calls finish(end, group, row, sums) with the sums of each run and 16 rows.
template <class Sums, class Finish>
void lookup_runs(const RankedRows& rows, const Grouping& grouping, const uint8_t* t,
                 const Finish& finish) {
  const uint16_t* words = words_of(rows);
  const size_t height = strip_height<W16>(rows.end), count = rows.last - rows.first;
  for_each_run<Sums>(grouping, [&](size_t b, size_t end, size_t g) {
    for (size_t column = b / W16::kBlocks; column < end / W16::kBlocks; column++)
      for (size_t line = 0; line < count; line += 32)
        prefetch_index(words + column * height + line);
    for (size_t r = 0; r < count; r += 32) {
      Sums sums[2] = {Sums(end - b), Sums(end - b)};
      add_blocks(words + r, height, b, end, t + b * Sums::kTableBytes, sums);
      for (size_t i = 0; i < 2; i++) finish(end, g, r + 16 * i, sums[i]);
    }
  });
}

// Without groups, all blocks are one group.
Grouping all_of(const RankedRows& rows) {
  const size_t blocks = rows.columns * W16::kBlocks;
  return {blocks, blocks};
}

void build_tables_i8(const int8_t* x, const int16_t* patterns, int k, size_t blocks, void* tables) {
  uint8_t* t = static_cast<uint8_t*>(tables);
  for (size_t b = 0; b < blocks; b++, x += k, t += SumsI8::kTableBytes)
    for (size_t p = 0; p < kPatterns; p += 16) {
      int16x8_t sums[2] = {vdupq_n_s16(0), vdupq_n_s16(0)};
      for (int d = 0; d < k; d++)
        for (int i = 0; i < 2; i++)
          sums[i] = vmlaq_n_s16(sums[i], vld1q_s16(patterns + d * kPatterns + p + 8 * i), x[d]);
      const uint8x16_t first = vreinterpretq_u8_s16(sums[0]),
                       second = vreinterpretq_u8_s16(sums[1]);
      vst1q_u8(t + p, vuzp1q_u8(first, second));
      vst1q_u8(t + kPatterns + p, vuzp2q_u8(first, second));
    }
}

void lookup_i8(const RankedRows& rows, const void* tables, int32_t* y) {
  for (size_t r = 0; r < rows.last - rows.first; r++) y[r] = 0;
  lookup_runs<SumsI8>(
      rows, all_of(rows), static_cast<const uint8_t*>(tables),
      [&](size_t, size_t, size_t row, const SumsI8& sums) { sums.add_to(y + row); });
}

void lookup_grouped_i8(const RankedRows& rows, const GroupScales& scales, const void* tables,
                       float* y) {
  const size_t count = rows.last - rows.first;
  int32_t sums_i32[W16::kStripRows] = {};  // of a group so far
  for (size_t r = 0; r < count; r++) y[r] = 0;
  lookup_runs<SumsI8>(
      rows, scales.grouping, static_cast<const uint8_t*>(tables),
      [&](size_t end, size_t g, size_t row, const SumsI8& sums) {
        sums.add_to(sums_i32 + row);
        if (end != scales.grouping.blocks && end % scales.grouping.blocks_per_group != 0) return;
        if (row == 0) prefetch_scales(scales, g, count);
        const GroupFactors factors(scales, g);
        for (size_t r = row; r < row + 16; r += 4) {
          factors.add_scaled(r, vcvtq_f32_s32(vld1q_s32(sums_i32 + r)), y);
          vst1q_s32(sums_i32 + r, vdupq_n_s32(0));
        }
      });
}

void build_grouped_tables_f32(const float* x, const float* patterns, int k,
                              const Grouping& grouping, void* tables) {
  Header* header = static_cast<Header*>(tables);
  uint8_t* t = static_cast<uint8_t*>(tables) + kHeaderBytes;
  const auto runs = [](const Grouping& all, const auto& body) { for_each_run<SumsF32>(all, body); };
  header->plain = !build_runs(x, Digits<kPatterns>(patterns, k, 0), k, grouping, runs, t);
  if (header->plain) plain::build_tables<float, float, float>(x, patterns, k, grouping.blocks, t);
}

void build_tables_f32(const float* x, const float* patterns, int k, size_t blocks, void* tables) {
  build_grouped_tables_f32(x, patterns, k, {blocks, blocks}, tables);
}

// Calls put(group, row, sums) with the sums of each run and four rows.
template <class Put>
void lookup_planes(const RankedRows& rows, const Grouping& grouping, const uint8_t* t,
                   const Put& put) {
  const float* unit = units_of(t, grouping.blocks, kPatterns);
  const size_t count = rows.last - rows.first;
  lookup_runs<SumsF32>(rows, grouping, t, [&](size_t, size_t g, size_t row, const SumsF32& sums) {
    sums.finish(*unit, [&](size_t r, float32x4_t four) { put(g, row + r, four); });
    if (row + 16 == count) unit++;
  });
}

void lookup_f32(const RankedRows& rows, const void* tables, float* y) {
  const uint8_t* t = static_cast<const uint8_t*>(tables) + kHeaderBytes;
  if (static_cast<const Header*>(tables)->plain) return plain::lookup<float, float>(rows, t, y);
  lookup_planes(rows, all_of(rows), t, AddSums(rows, y));
}

void lookup_grouped_f32(const RankedRows& rows, const GroupScales& scales, const void* tables,
                        float* y) {
  const uint8_t* t = static_cast<const uint8_t*>(tables) + kHeaderBytes;
  if (static_cast<const Header*>(tables)->plain)
    return plain::lookup_grouped<float, float>(rows, scales, t, y);
  lookup_planes(rows, scales.grouping, t, AddScaledSums(rows, scales, y));
}

}  // namespace

void fill_w16_neon(KernelTable& table) {
  table.w16_i8.vector = {SumsI8::kTableBytes, 0, build_tables_i8, lookup_i8, lookup_grouped_i8};
  table.w16_f32.vector = {bytes_for(kPatterns, kPatterns * sizeof(float)),
                          kHeaderBytes,
                          build_tables_f32,
                          lookup_f32,
                          lookup_grouped_f32,
                          build_grouped_tables_f32};
}

}  // namespace rsr
