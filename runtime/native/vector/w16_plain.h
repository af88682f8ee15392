// Packing w16 in plain C++, for any tables of 32 entries. Internal linkage: each file that includes
// this compiles its own (table.h).
#pragma once
#include "table.h"
#include "vector/group_scales.h"

namespace rsr {
namespace {
namespace plain {

template <class X, class Pattern, class Entry>
void build_tables(const X* x, const Pattern* patterns, int k, size_t blocks, void* tables) {
  Entry* t = static_cast<Entry*>(tables);
  for (size_t b = 0; b < blocks; b++, x += k, t += kPatterns) {
    for (int p = 0; p < kPatterns; p++) t[p] = 0;
    for (int d = k; d-- > 0;)
      for (int p = 0; p < kPatterns; p++)
        t[p] = static_cast<Entry>(t[p] + patterns[d * kPatterns + p] * x[d]);
  }
}

// Adds the blocks of a word column for `count` rows.
template <class Entry, class Sum>
void add_column(const uint16_t* words, const Entry* t, size_t count, Sum* y) {
  for (size_t r = 0; r < count; r++) {
    const unsigned w = words[r];
    y[r] += t[w & 31];
    y[r] += t[kPatterns + (w >> 5 & 31)];
    y[r] += t[2 * kPatterns + (w >> 10 & 31)];
  }
}

template <class Entry, class Sum>
void lookup(const RankedRows& rows, const void* tables, Sum* y) {
  const size_t height = strip_height<W16>(rows.end), count = rows.last - rows.first;
  const Entry* t = static_cast<const Entry*>(tables);
  const uint16_t* words = words_of(rows);
  for (size_t r = 0; r < count; r++) y[r] = 0;
  for (size_t g = 0; g < rows.columns; g++, words += height, t += W16::kBlocks * kPatterns)
    add_column(words, t, count, y);
}

// Bound: a group's sum fits int32 (columns_end in packing.h).
template <class Entry, class Sum>
void lookup_grouped(const RankedRows& rows, const GroupScales& scales, const void* tables,
                    float* y) {
  const size_t height = strip_height<W16>(rows.end), count = rows.last - rows.first;
  const uint16_t* words = words_of(rows);
  for (size_t r = 0; r < count; r++) y[r] = 0;
  for (size_t b = 0, g = 0; b < scales.grouping.blocks; g++) {
    const size_t stop = group_end(scales.grouping, b);
    Sum sums[W16::kStripRows] = {};
    while (b < stop) {
      const Entry* t = static_cast<const Entry*>(tables) + b * kPatterns;
      const uint16_t* column = words + b / W16::kBlocks * height;
      const size_t j = b % W16::kBlocks;
      if (j == 0 && b + W16::kBlocks <= stop) {
        add_column(column, t, count, sums);
        b += W16::kBlocks;
        continue;
      }
      for (size_t r = 0; r < count; r++) sums[r] += t[column[r] >> W16::kRankBits * j & 31];
      b++;
    }
    for (size_t r = 0; r < count; r++)
      y[r] += static_cast<float>(sums[r]) * factor_of(scales, g, r);
  }
}

}  // namespace plain
}  // namespace
}  // namespace rsr
