// One float32 vector, packing n4s1, NEON (n4s1_neon.h): planes of bytes (planes_neon.h). A negative
// rank adds 255 - u in each plane, whose digit is -(u - 128) - 1.
//
// Per unit and 16 rows (384 multiply-adds): 32 tbl, 64 uabal, 8 cmtst, 4 and, 4 ushr, 1 cnt, 1 add:
// 114 operations; 5 loads of the index and, for 32 rows at once, 16 of tables. A run of 16 units
// ends in some 60. Six digits of four bits, as on AVX2, would take 6 tbl and 6 uaba a block, but 16
// operations a unit to join them.
#include "vector/group_scales_neon.h"
#include "vector/n4s1_neon.h"
#include "vector/n4s1_plain.h"
#include "vector/planes_neon.h"

namespace rsr {
namespace {

constexpr size_t kEntries = N4S1::kMagnitudes;  // of a table
constexpr size_t kTableBytes = kPlanes * kEntries;
constexpr size_t kUnitsPerRun = 16;
static_assert(kUnitsPerRun * N4S1::kBlocks <= 255);  // PlaneSums

// Calls body(run, first block, group) with the runs of all groups, in order.
template <class Body>
inline void for_each_run(const Grouping& grouping, const Body& body) {
  for (size_t b = 0, g = 0; b < grouping.blocks; g++)
    for (const size_t end = group_end(grouping, b); b < end;) {
      const UnitRun run(end - b, kUnitsPerRun);
      body(run, b, g);
      b += run.blocks();
    }
}

void build_grouped_tables(const float* x, const float* patterns, int k, const Grouping& grouping,
                          void* tables) {
  Header* header = static_cast<Header*>(tables);
  uint8_t* t = static_cast<uint8_t*>(tables) + kHeaderBytes;
  const auto runs = [](const Grouping& all, const auto& body) {
    for_each_run(all,
                 [&](const UnitRun& run, size_t b, size_t g) { body(b, b + run.blocks(), g); });
  };
  const Digits<kEntries> digits(patterns, k, N4S1::kZeroRank);
  header->plain = !build_runs(x, digits, k, grouping, runs, t);
  if (header->plain) plain::build_tables<float, float, float>(x, patterns, k, grouping.blocks, t);
}

void build_tables(const float* x, const float* patterns, int k, size_t blocks, void* tables) {
  build_grouped_tables(x, patterns, k, {blocks, blocks}, tables);
}

// Adds a unit of N blocks for 32 rows.
template <int N>
inline void add_unit(const uint8_t* unit, size_t height, const uint8_t* t, PlaneSums* sums,
                     uint8x16_t* negatives) {
  prefetch_unit<N>(unit, height);
  SixteenRows<N> rows[2] = {{unit, height}, {unit + 16, height}};
#pragma GCC unroll 8
  for (int j = 0; j < N; j++, t += kTableBytes) {
    uint8x16_t magnitudes[2], negative[2];
#pragma GCC unroll 2
    for (int r = 0; r < 2; r++)
      magnitudes[r] = rows[r].magnitudes(j), negative[r] = rows[r].negative(j);
#pragma GCC unroll 4
    for (int i = 0; i < kPlanes; i++) {
      const uint8x16_t table = vld1q_u8(t + i * kEntries);
#pragma GCC unroll 2
      for (int r = 0; r < 2; r++) {
        const uint8x16_t u = vqtbl1q_u8(table, magnitudes[r]);
        sums[r].low[i] = vabal_u8(sums[r].low[i], vget_low_u8(u), vget_low_u8(negative[r]));
        sums[r].high[i] = vabal_high_u8(sums[r].high[i], u, negative[r]);
      }
    }
  }
#pragma GCC unroll 2
  for (int r = 0; r < 2; r++) negatives[r] = vaddq_u8(negatives[r], rows[r].count_negative());
}

// Calls put(group, row, sums) with the sums of each run and four rows.
template <class Put>
void lookup_runs(const RankedRows& rows, const Grouping& grouping, const uint8_t* t,
                 const Put& put) {
  const uint8_t* unit = rows.index + rows.first;
  const size_t height = strip_height<N4S1>(rows.end), count = rows.last - rows.first;
  const float* run_unit = units_of(t, grouping.blocks, kEntries);
  for_each_run(grouping, [&](const UnitRun& run, size_t, size_t g) {
    for (size_t r = 0; r < count; r += 32) {
      PlaneSums sums[2] = {PlaneSums(run.blocks()), PlaneSums(run.blocks())};
      uint8x16_t negatives[2] = {vdupq_n_u8(0), vdupq_n_u8(0)};
      for_each_unit<kTableBytes>(run, unit + r, height, t,
                                 [&](const uint8_t* at, const uint8_t* table, auto N) {
                                   add_unit<N>(at, height, table, sums, negatives);
                                 });
      for (size_t i = 0; i < 2; i++) {
        sums[i].add_to_planes(negatives[i]);
        sums[i].finish(*run_unit,
                       [&](size_t row, float32x4_t four) { put(g, r + 16 * i + row, four); });
      }
    }
    unit += bytes_of(run) * height;
    t += run.blocks() * kTableBytes;
    run_unit++;
  });
}

// Without groups, all blocks are one group of whole units.
void lookup(const RankedRows& rows, const void* tables, float* y) {
  const uint8_t* t = static_cast<const uint8_t*>(tables) + kHeaderBytes;
  if (static_cast<const Header*>(tables)->plain) return plain::lookup<float, float>(rows, t, y);
  const size_t blocks = rows.columns * N4S1::kBlocks;
  lookup_runs(rows, {blocks, blocks}, t, AddSums(rows, y));
}

void lookup_grouped(const RankedRows& rows, const GroupScales& scales, const void* tables,
                    float* y) {
  const uint8_t* t = static_cast<const uint8_t*>(tables) + kHeaderBytes;
  if (static_cast<const Header*>(tables)->plain)
    return plain::lookup_grouped<float, float>(rows, scales, t, y);
  lookup_runs(rows, scales.grouping, t, AddScaledSums(rows, scales, y));
}

}  // namespace

void fill_n4s1_f32_neon(KernelTable& table) {
  table.n4s1_f32.vector = {bytes_for(kEntries, kPatterns * sizeof(float)),
                           kHeaderBytes,
                           build_tables,
                           lookup,
                           lookup_grouped,
                           build_grouped_tables};
}

}  // namespace rsr
