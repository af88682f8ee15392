// What tables.h and grouped_tables.h need of an instruction set, NEON.
//
// Internal linkage: each file that includes this compiles its own (table.h).
#pragma once
#include "batch/entries.h"
#include "neon.h"

namespace rsr {
namespace {

// Each of the following decodes rows [row, row + count) of one column into the ranks of its kBlocks
// blocks, adjacent bytes of one Ranks per row. A byte is entry << kShift.
struct W16Ranks : W16Entries {
  template <int kShift>
  static void decode(const uint8_t* column, size_t, size_t row, size_t count, Ranks* ranks) {
    const uint16_t* words = reinterpret_cast<const uint16_t*>(column) + row;
    const uint16x8_t low = vdupq_n_u16(31 << kShift), high = vshlq_n_u16(low, 8);
    for (size_t r = 0; r < count; r += 8) {
      const uint16x8_t w = vld1q_u16(words + r);
      const uint16x8_t first_two =
          vbslq_u16(high, vshlq_n_u16(w, kShift + 3), vandq_u16(vshlq_n_u16(w, kShift), low));
      const uint16x8_t third = vandq_u16(vshrq_n_u16(w, 10 - kShift), low);
      vst1q_u32(ranks + r, vreinterpretq_u32_u16(vzip1q_u16(first_two, third)));
      vst1q_u32(ranks + r + 4, vreinterpretq_u32_u16(vzip2q_u16(first_two, third)));
    }
  }
};

struct N4S1Ranks : N4S1Entries {
  template <int kShift>
  static void decode(const uint8_t* unit, size_t height, size_t row, size_t count, Ranks* ranks) {
    const uint8x16_t magnitude = vdupq_n_u8(15 << kShift), sign = vdupq_n_u8(16 << kShift);
    for (size_t r = row; r < row + count; r += 16, ranks += 16) {
      const uint8x16_t signs = vld1q_u8(unit + kSignVector * height + r);
      uint16x8_t pairs[2][4];  // of blocks: adjacent bytes of rows 0-7, and of rows 8-15
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        const uint8x16_t v = vld1q_u8(unit + i * height + r);
        // The sign of block j is bit 7 - j.
        const auto with_sign = [&](uint8x16_t nibbles, int j) {
          return vbslq_u8(sign, vshlq_u8(signs, vdupq_n_s8(static_cast<int8_t>(kShift + j - 3))),
                          vandq_u8(nibbles, magnitude));
        };
        const uint8x16_t even = with_sign(vshlq_n_u8(v, kShift), 2 * i);
        const uint8x16_t odd = with_sign(vshrq_n_u8(v, 4 - kShift), 2 * i + 1);
        pairs[0][i] = vreinterpretq_u16_u8(vzip1q_u8(even, odd));
        pairs[1][i] = vreinterpretq_u16_u8(vzip2q_u8(even, odd));
      }
#pragma GCC unroll 2
      for (int half = 0; half < 2; half++) {
        const auto fours = [&](int i, auto zip) {
          return vreinterpretq_u32_u16(zip(pairs[half][i], pairs[half][i + 1]));
        };
        const auto store = [&](size_t row, uint32x4_t a, uint32x4_t b) {
          uint64_t* to = ranks + 8 * half + row;
          vst1q_u64(to, vreinterpretq_u64_u32(vzip1q_u32(a, b)));
          vst1q_u64(to + 2, vreinterpretq_u64_u32(vzip2q_u32(a, b)));
        };
        const auto lower = [](uint16x8_t a, uint16x8_t b) { return vzip1q_u16(a, b); };
        const auto upper = [](uint16x8_t a, uint16x8_t b) { return vzip2q_u16(a, b); };
        store(0, fours(0, lower), fours(2, lower));
        store(4, fours(0, upper), fours(2, upper));
      }
    }
  }
};

// Adds int16 sums to int32 sums and clears them.
inline void widen(int16_t* tile, int32_t* sums, size_t count) {
  for (size_t i = 0; i < count; i += 8) {
    const int16x8_t eight = vld1q_s16(tile + i);
    vst1q_s32(sums + i, vaddw_s16(vld1q_s32(sums + i), vget_low_s16(eight)));
    vst1q_s32(sums + i + 4, vaddw_high_s16(vld1q_s32(sums + i + 4), eight));
    vst1q_s16(tile + i, vdupq_n_s16(0));
  }
}

// The scales of a group and `rows` rows, a multiple of 8, the first of which is `first` of those
// wanted.
inline void read_scales(const GroupScales& all, size_t group, size_t first, size_t rows,
                        float* scales) {
  const size_t entry = entry_bytes(all);
  const char* from = scales_at(all, group, first);
  for (size_t r = 0; r < rows; r += 4)
    vst1q_f32(scales + r, four_scales(from + r * entry, all.is_half));
}

}  // namespace
}  // namespace rsr
