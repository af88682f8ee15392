// Packing n4s1 in plain C++. Internal linkage: each file that includes this compiles its own
// (table.h).
#pragma once
#include "table.h"
#include "vector/group_scales.h"

namespace rsr {
namespace {
namespace plain {

// Entries 0-15 by magnitude, 16-31 their negatives. Magnitudes 14 and 15 are no pattern: their
// columns of `patterns` are zero.
template <class X, class Pattern, class Entry>
void build_tables(const X* x, const Pattern* patterns, int k, size_t blocks, void* tables) {
  Entry* t = static_cast<Entry*>(tables);
  for (size_t b = 0; b < blocks; b++, x += k, t += kPatterns) {
    for (size_t m = 0; m < N4S1::kMagnitudes; m++) {
      Entry sum = 0;
      for (int d = k; d-- > 0;)
        sum = static_cast<Entry>(sum + patterns[d * kPatterns + N4S1::kZeroRank + m] * x[d]);
      t[m] = sum;
      t[N4S1::kMagnitudes + m] = static_cast<Entry>(-sum);
    }
  }
}

// Adds a unit of n blocks for `count` rows.
template <class Entry, class Sum>
void add_unit(const uint8_t* unit, size_t height, size_t n, const Entry* t, size_t count, Sum* y) {
  const uint8_t* signs = unit + (N4S1::unit_bytes(n) - 1) * height;
  for (size_t j = 0; j < n; j++, t += kPatterns)
    for (size_t r = 0; r < count; r++)
      y[r] += t[(unit[j / 2 * height + r] >> 4 * (j % 2) & 15) | (signs[r] >> (7 - j) & 1) << 4];
}

// Calls finish(group, sums) with the sums of each group.
// Bound (int8): a group's sum is at most 128 k blocks < 2^31, as in_features < 2^24.
template <class Entry, class Sum, class Finish>
void lookup_groups(const RankedRows& rows, const Grouping& grouping, const void* tables,
                   const Finish& finish) {
  const size_t height = strip_height<N4S1>(rows.end), count = rows.last - rows.first;
  const Entry* t = static_cast<const Entry*>(tables);
  const uint8_t* unit = rows.index + rows.first;
  for (size_t b = 0, g = 0; b < grouping.blocks; g++) {
    Sum sums[N4S1::kStripRows] = {};
    for (const size_t end = group_end(grouping, b); b < end;) {
      const size_t n = min(end - b, N4S1::kBlocks);
      add_unit(unit, height, n, t + b * kPatterns, count, sums);
      unit += N4S1::unit_bytes(n) * height;
      b += n;
    }
    finish(g, sums);
  }
}

template <class Entry, class Sum>
void lookup_grouped(const RankedRows& rows, const GroupScales& scales, const void* tables,
                    float* y) {
  const size_t count = rows.last - rows.first;
  for (size_t r = 0; r < count; r++) y[r] = 0;
  lookup_groups<Entry, Sum>(rows, scales.grouping, tables, [&](size_t g, const Sum* sums) {
    for (size_t r = 0; r < count; r++)
      y[r] += static_cast<float>(sums[r]) * factor_of(scales, g, r);
  });
}

template <class Entry, class Sum>
void lookup(const RankedRows& rows, const void* tables, Sum* y) {
  const size_t height = strip_height<N4S1>(rows.end), count = rows.last - rows.first;
  const Entry* t = static_cast<const Entry*>(tables);
  const uint8_t* unit = rows.index + rows.first;
  for (size_t r = 0; r < count; r++) y[r] = 0;
  if (rows.grouping.blocks)  // sums of all groups, without their scales
    return lookup_groups<Entry, Sum>(rows, rows.grouping, tables, [&](size_t, const Sum* sums) {
      for (size_t r = 0; r < count; r++) y[r] += sums[r];
    });
  for (size_t u = 0; u < rows.columns;
       u++, unit += N4S1::kCellBytes * height, t += N4S1::kBlocks * kPatterns) {
    for (size_t r = 0; r < count; r++) {
      const unsigned signs = unit[N4S1::kSignVector * height + r];
      Sum sum = y[r];
      for (int i = 0; i < 4; i++) {
        const unsigned n = unit[i * height + r];
        sum += t[2 * i * kPatterns + ((n & 15) | (signs >> (7 - 2 * i) & 1) << 4)];
        sum += t[(2 * i + 1) * kPatterns + (n >> 4 | (signs >> (6 - 2 * i) & 1) << 4)];
      }
      y[r] = sum;
    }
  }
}

}  // namespace plain
}  // namespace
}  // namespace rsr
