// Floats as integers of a unit, in planes of bytes, which tbl looks up. NEON.
//
// A run of blocks of a group has its own unit: with 2^E <= max|x| < 2^(E+1) over its inputs,
// unit = 2^(E-26), and x is rounded to integers X of units, |X| < 2^27. A block's sum of them is
// |v| <= kMaxK 2^27 < 2^30. The four bytes u0 to u3 of v + 0x80808080 are its digits of base 256,
// each with a bias of 128: v = sum of (u_i - 128) 256^i. A plane is the digits u_i of all entries
// of a table; each is summed in 16 bits. Integers are summed exactly, and rounded to float32 once a
// run, so the result does not depend on the order of rows or threads.
//
// Error, in multiples of the largest digit of a pattern: max|x| has 24 significant bits, so it is a
// multiple of the unit; every other x is rounded by at most 2^-27 max|x|. The sum of a run is
// rounded once, and with groups again by its factor and the addition to y. So all n inputs have at
// most n 2^-27 max|x| + 3 * 2^-24 sum|x|, and 2^-24 |y| for each run after the first. There are at
// most n / 8 of these, as groups have 16 inputs or more: together at most n 2^-24 sum|x| from n = 4
// on; without groups from n = 3 on, the least that Matrix promises. Narrower groups take the plain
// path, floats in plain C++, as do NaN, infinity and x of less than 2^-100 or more than 2^100,
// whose units leave float32.
//
// Internal linkage: each file that includes this compiles its own (table.h).
#pragma once
#include <cmath>

#include "neon.h"
#include "table.h"

namespace rsr {
namespace {

// In front of the tables.
struct Header {
  bool plain;  // tables are floats, those of plain C++
};
constexpr size_t kHeaderBytes = 64;

constexpr int kPlanes = 4, kBias = 128;
constexpr size_t kMinColumns = 16;
constexpr int kMaxExponent = 100, kUnitBits = 26;

// Bytes of a column block whose table has so many entries: of planes or of floats, whichever is
// more, and of the unit of a run.
constexpr size_t bytes_for(size_t entries, size_t plain_bytes) {
  return (kPlanes * entries > plain_bytes ? kPlanes * entries : plain_bytes) + sizeof(float);
}

// The units of runs, behind the planes of all blocks.
inline float* units_of(uint8_t* planes, size_t blocks, size_t entries) {
  return reinterpret_cast<float*>(planes + blocks * kPlanes * entries);
}
inline const float* units_of(const uint8_t* planes, size_t blocks, size_t entries) {
  return reinterpret_cast<const float*>(planes + blocks * kPlanes * entries);
}

// The largest |x|; infinity or NaN if an x is.
inline float largest_magnitude(const float* x, size_t count) {
  int32x4_t most = vdupq_n_s32(0);  // as integers, floats are in order, NaN above infinity
  size_t i = 0;
  for (; i + 4 <= count; i += 4)
    most = vmaxq_s32(most, vreinterpretq_s32_f32(vabsq_f32(vld1q_f32(x + i))));
  for (; i < count; i++)
    most = vmaxq_s32(most, vreinterpretq_s32_f32(vabsq_f32(vdupq_n_f32(x[i]))));
  return vgetq_lane_f32(vreinterpretq_f32_s32(vdupq_n_s32(vmaxvq_s32(most))), 0);
}

// The patterns of a table of kEntries, from `first` on, as integers.
template <size_t kEntries>
struct Digits {
  int32_t of[kMaxK][kEntries];

  Digits(const float* patterns, int k, size_t first) {
    for (int d = 0; d < k; d++)
      for (size_t e = 0; e < kEntries; e += 4)
        vst1q_s32(of[d] + e, vcvtq_s32_f32(vld1q_f32(patterns + d * kPatterns + first + e)));
  }
};

// The planes of `blocks` blocks of k inputs, in units.
template <size_t kEntries>
void build_planes(const float* x, const Digits<kEntries>& digits, int k, float unit, size_t blocks,
                  uint8_t* planes) {
  constexpr uint8_t kFirstBytes[16] = {0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60};
  const float inverse = 1 / unit;
  for (size_t b = 0; b < blocks; b++, x += k, planes += kPlanes * kEntries) {
    int32_t rounded[kMaxK];
    for (int d = 0; d < k; d++) rounded[d] = vcvtns_s32_f32(x[d] * inverse);
    for (size_t e = 0; e < kEntries; e += 16) {
      uint8x16x4_t biased;
      for (size_t i = 0; i < 4; i++) {
        int32x4_t v = vreinterpretq_s32_u8(vdupq_n_u8(kBias));
        for (int d = 0; d < k; d++)
          v = vmlaq_n_s32(v, vld1q_s32(digits.of[d] + e + 4 * i), rounded[d]);
        biased.val[i] = vreinterpretq_u8_s32(v);
      }
      for (int i = 0; i < kPlanes; i++) {
        const uint8x16_t from =
            vaddq_u8(vld1q_u8(kFirstBytes), vdupq_n_u8(static_cast<uint8_t>(i)));
        vst1q_u8(planes + i * kEntries + e, vqtbl4q_u8(biased, from));
      }
    }
  }
}

// Builds the planes of all runs, and their units; or returns false: plain tables are needed.
// for_each_run(grouping, body): calls body(first block, end, group) with each run.
template <size_t kEntries, class ForEachRun>
bool build_runs(const float* x, const Digits<kEntries>& digits, int k, const Grouping& grouping,
                const ForEachRun& for_each_run, uint8_t* planes) {
  if (grouping.blocks_per_group < grouping.blocks && grouping.blocks_per_group * k < kMinColumns)
    return false;
  float* unit = units_of(planes, grouping.blocks, kEntries);
  bool fits = true;
  for_each_run(grouping, [&](size_t b, size_t end, size_t) {
    const float largest = largest_magnitude(x + b * k, (end - b) * k);
    if (!fits || !(largest < std::ldexp(1.0f, kMaxExponent)) ||
        (largest > 0 && largest < std::ldexp(1.0f, -kMaxExponent))) {
      fits = false;
      return;
    }
    *unit = std::ldexp(1.0f, (largest > 0 ? std::ilogb(largest) : 0) - kUnitBits);
    build_planes(x + b * k, digits, k, *unit, end - b, planes + b * kPlanes * kEntries);
    unit++;
  });
  return fits;
}

// Sums of a run of 16 rows, by plane: rows 0-7 and 8-15. They begin with the bias of all blocks.
// Bound: |sum| <= 128 * 255 < 2^15, in at most 255 blocks.
struct PlaneSums {
  uint16x8_t low[kPlanes], high[kPlanes];

  explicit PlaneSums(size_t blocks) {
    for (int i = 0; i < kPlanes; i++)
      low[i] = high[i] = vdupq_n_u16(static_cast<uint16_t>(-kBias * static_cast<int>(blocks)));
  }

  // Adds to every plane.
  void add_to_planes(uint8x16_t bytes) {
    for (int i = 0; i < kPlanes; i++) {
      low[i] = vaddw_u8(low[i], vget_low_u8(bytes));
      high[i] = vaddw_high_u8(high[i], bytes);
    }
  }

  // Calls put(row, sums) with the float32 sums of each four rows. Two planes make an integer below
  // 2^23, which is exact in float32, as is its product with a power of two: fma rounds once.
  template <class Put>
  void finish(float unit, const Put& put) const {
    const auto sums_of = [&](const auto& quarter, size_t row) {
      const auto pair = [&](int i) {
        const int16x4_t first = quarter(i), second = quarter(i + 1);
        return vcvtq_f32_s32(vaddw_s16(vshll_n_s16(second, 8), first));
      };
      put(row, vfmaq_n_f32(vmulq_n_f32(pair(0), unit), pair(2), 65536 * unit));
    };
    const auto lower = [](uint16x8_t v) { return vget_low_s16(vreinterpretq_s16_u16(v)); };
    const auto upper = [](uint16x8_t v) { return vget_high_s16(vreinterpretq_s16_u16(v)); };
    sums_of([&](int i) { return lower(low[i]); }, 0);
    sums_of([&](int i) { return upper(low[i]); }, 4);
    sums_of([&](int i) { return lower(high[i]); }, 8);
    sums_of([&](int i) { return upper(high[i]); }, 12);
  }
};

}  // namespace
}  // namespace rsr
