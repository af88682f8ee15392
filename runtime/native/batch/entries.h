// Which entry of a table holds the sums of a pattern, for tables.h and grouped_tables.h. It is the
// same on every instruction set.
//
// Internal linkage: each file that includes this compiles its own (table.h).
#pragma once
#include "table.h"

namespace rsr {
namespace {

struct W16Entries : W16 {
  static constexpr size_t kColumns = 2;  // at a time, of 64-byte entries: 6 tables of 27 entries
  using Ranks = uint32_t;                // of the blocks of a column, a byte each

  static int entry(int pattern) { return pattern; }
};

// 16 by magnitude, then their negatives.
struct N4S1Entries : N4S1 {
  static constexpr size_t kColumns = 1;  // 8 tables of 28 entries
  using Ranks = uint64_t;

  static int entry(int pattern) {
    return pattern >= kZeroRank ? pattern - kZeroRank : int{kMagnitudes} + kZeroRank - pattern;
  }
};

}  // namespace
}  // namespace rsr
