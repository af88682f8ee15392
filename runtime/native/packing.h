// The packings of a ranked index (formats/SPEC.md): the only place for their constants.
//
// A strip holds consecutive rows; the last strip may be lower. A column holds the ranks of several
// column blocks for every row of a strip, in cells of one row each.
#pragma once
#include <cstddef>
#include <cstdint>

namespace rsr {

constexpr int kMaxK = 5;            // inputs of a column block: base^k <= kPatterns
constexpr int kPatterns = 32;       // entries of a lookup table: a rank has five bits
constexpr int kFewPatterns = 16;    // entries that one lookup of AVX2 reaches
constexpr size_t kRowUnit = 32;     // an index is padded to whole units; kernels unroll over them
constexpr int kMaxMagnitude = 128;  // of an int8 input
constexpr int kMaxDigit = 2;        // magnitude of a digit; k times the largest is at most kMaxK

enum class Packing { w16, n4s1 };

// Word columns: bits 5j to 5j + 4 of a 16-bit word are the rank in block j.
struct W16 {
  static constexpr size_t kStripRows = 128, kBlocks = 3, kCellBytes = 2;
  static constexpr int kRankBits = 5;
};

// Units: four vectors of one byte a row hold the magnitudes of eight blocks, the low nibble first;
// bit 7 - j of the fifth vector is the sign of block j. A rank is kZeroRank plus or minus the
// magnitude, so all 27 patterns of three ternary digits take magnitudes 0 to 13.
//
// If groups of columns have their own scales, each group is cut into units by itself. Its last
// unit then holds the remaining 1 to 7 blocks in fewer vectors: the last one has the signs, and
// with 1 or 3 blocks its low nibble has the last magnitude.
namespace {  // its functions are compiled for several instruction sets (table.h)
struct N4S1 {
  static constexpr size_t kStripRows = 64, kBlocks = 8, kCellBytes = 5;
  static constexpr size_t kSignVector = 4, kMagnitudes = 16;
  static constexpr int kK = 3, kZeroRank = 13;

  // Bytes of a row in a unit of up to eight blocks, and in all units of a group.
  static constexpr size_t unit_bytes(size_t blocks) { return (5 * blocks + 7) / 8; }
  static constexpr size_t group_bytes(size_t blocks) {
    return blocks / kBlocks * kCellBytes + unit_bytes(blocks % kBlocks);
  }
};
}  // namespace

constexpr size_t kMaxStripRows = W16::kStripRows;

static_assert(1 << W16::kRankBits == kPatterns && W16::kBlocks * W16::kRankBits <= 16);
static_assert(N4S1::kBlocks * (4 + 1) == 8 * N4S1::kCellBytes &&
              2 * N4S1::kMagnitudes == kPatterns);
static_assert(N4S1::kStripRows <= kMaxStripRows);
static_assert(W16::kStripRows % kRowUnit == 0 && N4S1::kStripRows % kRowUnit == 0);

// Internal linkage: these are compiled for several instruction sets (table.h).
namespace {

// std::min has external linkage.
constexpr size_t min(size_t a, size_t b) { return a < b ? a : b; }
constexpr size_t divide_up(size_t a, size_t b) { return (a + b - 1) / b; }

// int8: a block's sum is at most 128 k in magnitude, times that of the largest digit, so an int16
// sum takes the blocks of this many columns before it is widened to int32.
template <class Packing>
constexpr size_t columns_per_widen(int k, int largest_digit) {
  return 32767 / (kMaxMagnitude * static_cast<size_t>(k * largest_digit)) / Packing::kBlocks;
}
static_assert(columns_per_widen<W16>(kMaxK, 1) > 0 && columns_per_widen<N4S1>(N4S1::kK, 1) > 0);

// int8: the sum of a row is at most 128 in_features in magnitude, times that of the largest digit.
// A matrix has fewer than 2^24 columns, with a digit of magnitude 2 fewer than 2^23, so the sum
// fits int32.
constexpr size_t columns_end(int largest_digit) {
  return (size_t(1) << 24) / static_cast<size_t>(largest_digit);
}

// The largest magnitude of patterns (k, kPatterns), at least 1.
template <class Pattern>
constexpr int largest_digit(const Pattern* patterns, int k) {
  int largest = 1;
  for (int i = 0; i < k * kPatterns; i++) {
    const int digit = static_cast<int>(patterns[i]), size = digit < 0 ? -digit : digit;
    largest = largest < size ? size : largest;
  }
  return largest;
}

// The height of a strip with `rows` rows of the index from its first row on.
template <class Packing>
constexpr size_t strip_height(size_t rows) {
  return min(rows, Packing::kStripRows);
}

}  // namespace
}  // namespace rsr
