// Packing n4s1 on NEON: the 14 sums of a block by magnitude fit tbl, which looks up 16 bytes.
//
// Signs: uaba and uabal add |u - m|, which is u where m is 0 and 255 - u where m is 255. One
// instruction so adds a byte or its complement, -1 - u modulo 256, and cmtst makes m of a bit of
// the sign byte. What is missing, 1 for each negative rank, is added once per run: cnt counts the
// signs of a unit.
//
// Internal linkage: each file that includes this compiles its own (table.h).
#pragma once
#include "neon.h"
#include "vector/n4s1.h"

namespace rsr {
namespace {

// The vectors of 16 rows of a unit of N blocks (packing.h).
template <int N>
class SixteenRows {
 public:
  SixteenRows(const uint8_t* unit, size_t height)
      : unit_(unit), height_(height), signs_(vld1q_u8(unit + (N4S1::unit_bytes(N) - 1) * height)) {}

  // Of block j, after those of the blocks before it.
  uint8x16_t magnitudes(int j) {
    if (j % 2) return vshrq_n_u8(pair_, 4);
    pair_ = vld1q_u8(unit_ + j / 2 * height_);
    return vandq_u8(pair_, vdupq_n_u8(15));
  }

  // All ones where the rank of block j is negative.
  uint8x16_t negative(int j) const {
    return vtstq_u8(signs_, vdupq_n_u8(static_cast<uint8_t>(128 >> j)));
  }

  // The negative ranks of each row.
  uint8x16_t count_negative() const {
    constexpr uint8_t kSigns = static_cast<uint8_t>(0xff << (8 - N));  // below: a magnitude
    return vcntq_u8(N == N4S1::kBlocks ? signs_ : vandq_u8(signs_, vdupq_n_u8(kSigns)));
  }

 private:
  const uint8_t* unit_;
  size_t height_;
  uint8x16_t signs_, pair_;
};

// Prefetches a unit of N blocks: a vector of a strip of 64 rows is a line.
template <int N>
inline void prefetch_unit(const uint8_t* unit, size_t height) {
  for (size_t i = 0; i < N4S1::unit_bytes(N); i++) prefetch_index(unit + i * height);
}

// Calls add(unit, table, N) with each unit of a run, for the 32 rows from `unit` on; N: its blocks,
// as a constant.
template <size_t kTableBytes, class Add>
inline void for_each_unit(const UnitRun& run, const uint8_t* unit, size_t height, const uint8_t* t,
                          const Add& add) {
  for (size_t u = 0; u < run.units; u++) {
    add(unit, t, std::integral_constant<int, N4S1::kBlocks>());
    unit += N4S1::kCellBytes * height;
    t += N4S1::kBlocks * kTableBytes;
  }
  with_blocks(run.short_blocks, [&](auto N) { add(unit, t, N); });
}

// Bytes of a row in the units of a run.
inline size_t bytes_of(const UnitRun& run) {
  return run.units * N4S1::kCellBytes + N4S1::unit_bytes(run.short_blocks);
}

}  // namespace
}  // namespace rsr
