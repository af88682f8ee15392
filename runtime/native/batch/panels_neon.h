// Panels on NEON: the digits of 16 rows and some blocks, decoded from the ranks of either packing,
// for instructions that multiply bytes (sdot, smmla). A panel stays in the L1 cache while it meets
// all vectors of a pass; a dense matrix never exists.
//
// * A bundle is as many blocks as an instruction multiplies inputs of a row, 4 or 8. Zips bring the
//   ranks of a row together; then one tbl for each digit of a block makes 16 bytes of a panel.
// * Digit d of the blocks of a bundle is step d: 16 rows x 4 or 8 inputs. Inputs are packed in the
//   same order, those of kSetVectors vectors side by side.
// * Ranks are five bits in both packings: tables of digits have 32 entries. Those of n4s1 are 16 by
//   magnitude, then their negatives.
//
// Per 4 blocks and 16 rows, k = 3 (192 digits): 12 tbl of two registers, 12 stores, 8 zips, and
// some 16 to 24 operations for the ranks. sdot takes 12 instructions and 3.75 loads for a vector,
// smmla half of the former.
//
// Bound: |sum| < 2^31 (columns_end in packing.h), and digits and inputs are signed: no sum wraps.
//
// Internal linkage: each file that includes this compiles its own (table.h).
#pragma once
#include <cstring>

#include "neon.h"
#include "table.h"

namespace rsr {
namespace {

constexpr size_t kPanelRows = 16, kSetVectors = 4;
constexpr size_t kMaxVectors = 64;   // of a pass: their inputs stay in the L2 cache
constexpr size_t kPanelBlocks = 96;  // 4.5 KiB for k = 3

// Where the ranks of 16 rows are.
struct W16Ranks {
  using Packing = W16;

  W16Ranks(const RankedRows& rows, const Grouping&, size_t row) {
    const size_t strip = row / W16::kStripRows * W16::kStripRows;
    height_ = strip_height<W16>(rows.end - strip);
    words_ = reinterpret_cast<const uint16_t*>(rows.index) + strip * rows.columns + row - strip;
  }

  // Of a block. group, end: the first block of its group, and one past the last.
  uint8x16_t of(size_t block, size_t, size_t) const {
    const uint16_t* words = words_ + block / W16::kBlocks * height_;
    const int16x8_t shift =
        vdupq_n_s16(static_cast<int16_t>(-W16::kRankBits * static_cast<int>(block % W16::kBlocks)));
    const auto shifted = [&](const uint16_t* p) {
      return vreinterpretq_u8_u16(vshlq_u16(vld1q_u16(p), shift));
    };
    return vandq_u8(vuzp1q_u8(shifted(words), shifted(words + 8)), vdupq_n_u8(kPatterns - 1));
  }

  static int digit(const int16_t* values, int rank) { return values[rank]; }

 private:
  const uint16_t* words_;
  size_t height_;
};

struct N4S1Ranks {
  using Packing = N4S1;

  N4S1Ranks(const RankedRows& rows, const Grouping& grouping, size_t row)
      : blocks_per_group_(grouping.blocks_per_group) {
    const size_t strip = row / N4S1::kStripRows * N4S1::kStripRows;
    height_ = strip_height<N4S1>(rows.end - strip);
    const size_t whole = grouping.blocks / blocks_per_group_;
    const size_t row_bytes = whole * N4S1::group_bytes(blocks_per_group_) +
                             N4S1::group_bytes(grouping.blocks % blocks_per_group_);
    cells_ = rows.index + strip * row_bytes + row - strip;
  }

  uint8x16_t of(size_t block, size_t group, size_t end) const {
    const size_t i = block - group, j = i % N4S1::kBlocks;
    const size_t n = min(N4S1::kBlocks, end - block + j);  // blocks of the unit
    const uint8_t* unit =
        cells_ + (group / blocks_per_group_ * N4S1::group_bytes(blocks_per_group_) +
                  i / N4S1::kBlocks * N4S1::kCellBytes) *
                     height_;
    const uint8x16_t pair = vld1q_u8(unit + j / 2 * height_);
    const uint8x16_t signs = vld1q_u8(unit + (N4S1::unit_bytes(n) - 1) * height_);
    const uint8x16_t magnitudes = j % 2 ? vshrq_n_u8(pair, 4) : vandq_u8(pair, vdupq_n_u8(15));
    // The sign of block j is bit 7 - j.
    return vbslq_u8(vdupq_n_u8(N4S1::kMagnitudes),
                    vshlq_u8(signs, vdupq_n_s8(static_cast<int8_t>(static_cast<int>(j) - 3))),
                    magnitudes);
  }

  static int digit(const int16_t* values, int rank) {
    constexpr int kMagnitudes = N4S1::kMagnitudes;
    const int value = values[N4S1::kZeroRank + rank % kMagnitudes];
    return rank < kMagnitudes ? value : -value;
  }

 private:
  const uint8_t* cells_;  // of the first block
  size_t height_, blocks_per_group_;
};

// Brings the ranks of a row in four or eight blocks together: 4 or 2 rows a vector.
inline void interleave(uint8x16_t (&v)[4]) {
  const auto words = [](uint8x16_t a) { return vreinterpretq_u16_u8(a); };
  const auto bytes = [](uint16x8_t a) { return vreinterpretq_u8_u16(a); };
  const uint16x8_t low_a = words(vzip1q_u8(v[0], v[1])), low_b = words(vzip1q_u8(v[2], v[3]));
  const uint16x8_t high_a = words(vzip2q_u8(v[0], v[1])), high_b = words(vzip2q_u8(v[2], v[3]));
  v[0] = bytes(vzip1q_u16(low_a, low_b)), v[1] = bytes(vzip2q_u16(low_a, low_b));
  v[2] = bytes(vzip1q_u16(high_a, high_b)), v[3] = bytes(vzip2q_u16(high_a, high_b));
}
inline void interleave(uint8x16_t (&v)[8]) {
  uint8x16_t first[4] = {v[0], v[1], v[2], v[3]}, second[4] = {v[4], v[5], v[6], v[7]};
  interleave(first);
  interleave(second);
  for (int i = 0; i < 4; i++) {
    const uint32x4_t a = vreinterpretq_u32_u8(first[i]), b = vreinterpretq_u32_u8(second[i]);
    v[2 * i] = vreinterpretq_u8_u32(vzip1q_u32(a, b));
    v[2 * i + 1] = vreinterpretq_u8_u32(vzip2q_u32(a, b));
  }
}

// Dots defines kStepInputs, of a step and the blocks of a bundle, and adds steps to the sums of 16
// rows and kSetVectors vectors: add_step(16 rows x kStepInputs digits, kSetVectors x kStepInputs
// inputs). of(vector, i): the int32 sums of rows 4 i to 4 i + 3.
template <class Dots, class Ranks>
struct PanelProduct {
  using Packing = typename Ranks::Packing;
  static constexpr size_t kStepInputs = Dots::kStepInputs;
  static constexpr size_t kStepBytes = kPanelRows * kStepInputs;
  static_assert(kPanelBlocks % N4S1::kBlocks == 0 && N4S1::kBlocks % kStepInputs == 0);

  // Bytes of the tables of digits.
  struct Digits {
    uint8_t of[kMaxK][kPatterns];

    Digits(const int16_t* patterns, int k) {
      for (int d = 0; d < k; d++)
        for (int p = 0; p < kPatterns; p++)
          of[d][p] = static_cast<uint8_t>(Ranks::digit(patterns + d * kPatterns, p));
    }
  };

  // Of each thread: a panel, and the sums of 16 rows for each vector.
  struct PerThread {
    int8_t panel[kPanelBlocks * kMaxK * kPanelRows];
    int32_t sums[kMaxVectors * kPanelRows];
    float scaled[kMaxVectors * kPanelRows];
  };

  static Grouping all_of(size_t columns) {
    const size_t blocks = columns * Packing::kBlocks;
    return {blocks, blocks};
  }

  static size_t steps_of(size_t blocks, int k) { return divide_up(blocks, kStepInputs) * k; }

  // Steps of all groups before one.
  static size_t steps_before(const Grouping& grouping, int k, size_t group) {
    return group * steps_of(grouping.blocks_per_group, k);
  }
  static size_t steps_of_all(const Grouping& grouping, int k) {
    return steps_before(grouping, k, group_count(grouping));
  }

  // Shared by a pass: inputs, (set, step, vector of the set, kStepInputs).
  static size_t shared_bytes(const Grouping& grouping, int k, size_t count) {
    return divide_up(count, kSetVectors) * kSetVectors * steps_of_all(grouping, k) * kStepInputs;
  }
  static size_t per_thread_bytes(const Grouping&, int, size_t) { return sizeof(PerThread); }

  // One vector of a set, group by group; zeros complete the bundles.
  static void pack(const int8_t* x, const Grouping& grouping, int k, int8_t* to) {
    for (size_t group = 0; group < grouping.blocks; group = group_end(grouping, group)) {
      const size_t inputs = (group_end(grouping, group) - group) * k;
      for (size_t block = 0; block * k < inputs; block += kStepInputs)
        for (int d = 0; d < k; d++, to += kSetVectors * kStepInputs)
          for (size_t i = 0; i < kStepInputs; i++) {
            const size_t input = (block + i) * k + d;
            to[i] = input < inputs ? x[group * k + input] : int8_t{0};
          }
    }
  }

  static void prepare(const int8_t* x, const int16_t*, int k, size_t columns,
                      const Grouping& grouping, size_t count, size_t first, size_t last,
                      void* shared) {
    const size_t inputs = columns * Packing::kBlocks * k;
    const size_t set_bytes = steps_of_all(grouping, k) * kSetVectors * kStepInputs;
    if (last == count) last = divide_up(count, kSetVectors) * kSetVectors;
    for (size_t i = first; i < last; i++) {
      int8_t* to = static_cast<int8_t*>(shared) + i / kSetVectors * set_bytes +
                   i % kSetVectors * kStepInputs;
      if (i < count)
        pack(x + i * inputs, grouping, k, to);
      else  // an empty place of the last set
        for (size_t s = 0; s < steps_of_all(grouping, k); s++, to += kSetVectors * kStepInputs)
          std::memset(to, 0, kStepInputs);
    }
  }

  // The panel of blocks [block, stop) of a group.
  static void make_panel(const Ranks& ranks, size_t group, size_t end, size_t block, size_t stop,
                         const Digits& digits, int k, int8_t* panel) {
    for (; block < stop; block += kStepInputs, panel += k * kStepBytes) {
      uint8x16_t v[kStepInputs];
      for (size_t i = 0; i < kStepInputs; i++)
        v[i] = block + i < stop ? ranks.of(block + i, group, end) : vdupq_n_u8(0);
      interleave(v);
      for (int d = 0; d < k; d++) {
        const uint8x16x2_t table = vld1q_u8_x2(digits.of[d]);
        for (size_t i = 0; i < kStepInputs; i++)
          vst1q_s8(panel + d * kStepBytes + 16 * i, vreinterpretq_s8_u8(vqtbl2q_u8(table, v[i])));
      }
    }
  }

  // Adds the products of a panel and a set to sums (vector, kPanelRows).
  static void multiply_set(const int8_t* panel, const int8_t* x, size_t steps, int32_t* sums) {
    Dots dots;
    for (size_t s = 0; s < steps; s++, panel += kStepBytes, x += kSetVectors * kStepInputs)
      dots.add_step(panel, x);
    for (size_t v = 0; v < kSetVectors; v++)
      for (size_t i = 0; i < kPanelRows / 4; i++, sums += 4)
        vst1q_s32(sums, vaddq_s32(vld1q_s32(sums), dots.of(v, i)));
  }

  // Calls finish(group, sums) with the sums (vector, kPanelRows) of each group, for 16 rows.
  template <class Finish>
  static void multiply_panels(const Ranks& ranks, const Grouping& grouping, const Digits& digits,
                              int k, const int8_t* inputs, size_t count, PerThread& scratch,
                              const Finish& finish) {
    const size_t all_steps = steps_of_all(grouping, k), sets = divide_up(count, kSetVectors);
    for (size_t group = 0, g = 0, end; group < grouping.blocks; group = end, g++) {
      end = group_end(grouping, group);
      std::memset(scratch.sums, 0, sets * kSetVectors * kPanelRows * sizeof(int32_t));
      size_t step = steps_before(grouping, k, g);
      for (size_t block = group; block < end; block += kPanelBlocks) {
        const size_t stop = min(end, block + kPanelBlocks), steps = steps_of(stop - block, k);
        make_panel(ranks, group, end, block, stop, digits, k, scratch.panel);
        for (size_t set = 0; set < sets; set++)
          multiply_set(scratch.panel, inputs + (set * all_steps + step) * kSetVectors * kStepInputs,
                       steps, scratch.sums + set * kSetVectors * kPanelRows);
        step += steps;
      }
      finish(g, scratch.sums);
    }
  }

  static void multiply(const RankedRows& rows, const int16_t* patterns, int k, const void* shared,
                       size_t count, void* per_thread, int32_t* y, size_t stride) {
    const Digits digits(patterns, k);
    const Grouping grouping = all_of(rows.columns);
    for (size_t row = rows.first; row < rows.last; row += kPanelRows, y += kPanelRows)
      multiply_panels(
          Ranks(rows, grouping, row), grouping, digits, k, static_cast<const int8_t*>(shared),
          count, *static_cast<PerThread*>(per_thread), [&](size_t, const int32_t* sums) {
            for (size_t i = 0; i < count; i++)
              std::memcpy(y + i * stride, sums + i * kPanelRows, kPanelRows * sizeof(int32_t));
          });
  }

  static void multiply_grouped(const RankedRows& rows, const GroupScales& scales,
                               const int16_t* patterns, int k, const void* shared, size_t count,
                               void* per_thread, float* y, size_t stride) {
    const Digits digits(patterns, k);
    const size_t entry = entry_bytes(scales);
    PerThread& scratch = *static_cast<PerThread*>(per_thread);
    for (size_t row = rows.first; row < rows.last; row += kPanelRows, y += kPanelRows) {
      std::memset(scratch.scaled, 0, count * kPanelRows * sizeof(float));
      multiply_panels(
          Ranks(rows, scales.grouping, row), scales.grouping, digits, k,
          static_cast<const int8_t*>(shared), count, scratch, [&](size_t g, const int32_t* sums) {
            const char* of_rows = scales_at(scales, g, row - rows.first);
            for (size_t r = 0; r < kPanelRows; r += 4) {
              const float32x4_t scale = four_scales(of_rows + r * entry, scales.is_half);
              for (size_t i = 0; i < count; i++) {
                float* to = scratch.scaled + i * kPanelRows + r;
                const int32x4_t sum = vld1q_s32(sums + i * kPanelRows + r);
                vst1q_f32(to, vfmaq_f32(vld1q_f32(to), vcvtq_f32_s32(sum),
                                        vmulq_n_f32(scale, step_of(scales, i, g))));
              }
            }
          });
      for (size_t i = 0; i < count; i++)
        std::memcpy(y + i * stride, scratch.scaled + i * kPanelRows, kPanelRows * sizeof(float));
    }
  }

  static constexpr GroupedBatchKernel<int8_t, int16_t> grouped_kernel(size_t min_vectors) {
    return {min_vectors, kMaxVectors, shared_bytes, per_thread_bytes, prepare, multiply_grouped, 16,
            nullptr,     0,           kSetVectors};
  }

  static constexpr BatchKernel<int8_t, int16_t, int32_t> kernel(size_t min_vectors) {
    return {
        min_vectors,
        kMaxVectors,
        [](size_t columns, int k, size_t count) { return shared_bytes(all_of(columns), k, count); },
        [](size_t columns, int k, size_t count) {
          return per_thread_bytes(all_of(columns), k, count);
        },
        [](const int8_t* x, const int16_t* patterns, int k, size_t columns, size_t count,
           size_t first, size_t last, void* shared) {
          prepare(x, patterns, k, columns, all_of(columns), count, first, last, shared);
        },
        multiply,
        16,
        nullptr,
        kSetVectors};
  }
};

// From so many vectors on, panels take fewer instructions than lookups.
template <class Dots>
void fill_panels(KernelTable& table, size_t min_vectors) {
  table.w16_i8.medium_batch = PanelProduct<Dots, W16Ranks>::kernel(min_vectors);
  table.w16_i8.large_grouped_batch = PanelProduct<Dots, W16Ranks>::grouped_kernel(min_vectors);
  table.n4s1_i8.medium_batch = PanelProduct<Dots, N4S1Ranks>::kernel(min_vectors);
  table.n4s1_i8.large_grouped_batch = PanelProduct<Dots, N4S1Ranks>::grouped_kernel(min_vectors);
}

}  // namespace
}  // namespace rsr
