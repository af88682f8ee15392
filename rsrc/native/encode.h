// The native encoders of an RSR index. rsr_formats/packing.py defines what they must produce.
#pragma once
#include <cstddef>
#include <cstdint>

#include "packing.h"

namespace rsr {

constexpr size_t kMaxPatterns = 243;  // 3^5, numbers in a byte: what `seen` and `of` are indexed by

constexpr size_t padded_rows(size_t rows) { return divide_up(rows, kRowUnit) * kRowUnit; }

// A view of a matrix of digits 0 .. base - 1; strides in elements.
struct Digits {
  const uint8_t* data;
  size_t rows, columns;
  ptrdiff_t row_stride, column_stride;
  uint8_t at(size_t r, size_t c) const {
    return data[ptrdiff_t(r) * row_stride + ptrdiff_t(c) * column_stride];
  }
};

// A pattern is the k digits of one row in a column block; its number is those digits in base B, the
// first the most significant. Its rank is its number, or its place in a list of patterns.
constexpr uint8_t kNotListed = 255;
struct ListedRanks {
  static_assert(kMaxPatterns <= 256 && kPatterns <= kNotListed);
  uint8_t of[256];  // the rank of a pattern by its number, < kMaxPatterns; or kNotListed
};

struct Alphabet {
  int base, k, pad;                     // pad: the digit of padding rows and columns
  const ListedRanks* listed = nullptr;  // null: a pattern's rank is its number
  size_t patterns() const {             // base^k
    size_t n = 1;
    for (int i = 0; i < k; i++) n *= base;
    return n;
  }
};

inline size_t blocks(const Digits& a, int k) { return divide_up(a.columns, k); }
inline size_t w16_words(const Digits& a, int k) { return divide_up(blocks(a, k), W16::kBlocks); }

// Encodes packing w16. out: (w16_words * padded_rows,).
// Returns false if a digit is not below base or a pattern is not listed; out is then undefined.
bool pack_w16(const Digits& a, const Alphabet& alphabet, uint16_t* out);

// Sets seen[number] to 1 for every pattern that occurs. seen: (256,); base^k <= kMaxPatterns.
// Column block j covers columns j / stride * k * stride + j % stride + p * stride, p < k; a.columns
// is a multiple of k * stride. Returns false if a digit is not below base.
bool mark_patterns(const Digits& a, int base, int k, size_t stride, uint8_t* seen);

// Packing n4s1 is for base 3, k = 3 and padding digit 1.
constexpr size_t kUnitColumns = N4S1::kK * N4S1::kBlocks;

// Bytes of a row. group_blocks: column blocks of a group of columns, each cut into units by itself;
// 0: no groups, and the last unit is padded.
inline size_t n4s1_bytes(const Digits& a, size_t group_blocks) {
  if (group_blocks == 0) return divide_up(a.columns, kUnitColumns) * N4S1::kCellBytes;
  const size_t count = blocks(a, N4S1::kK);
  return count / group_blocks * N4S1::group_bytes(group_blocks) +
         N4S1::group_bytes(count % group_blocks);
}

// Encodes packing n4s1. out: (n4s1_bytes * padded_rows,).
// Returns false if a digit is above 2; out is then undefined.
bool pack_n4s1(const Digits& a, size_t group_blocks, uint8_t* out);

// Sorts the rows of each column block by their patterns, stably. permutation: (blocks, rows);
// segments: (blocks, patterns + 1). Returns false if a digit is not below base.
template <class Index>
bool sort_blocks(const Digits& a, const Alphabet& alphabet, Index* permutation, Index* segments);

}  // namespace rsr
