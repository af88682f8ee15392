// Native encoders; rsr_formats/encoding.py defines what they must produce.
#pragma once
#include <cstddef>
#include <cstdint>

namespace rsr {

constexpr size_t kStripRows = 128;
constexpr size_t kLanes = 32;
constexpr size_t kRanksPerWord = 3;

// A view of digits 0 .. base-1; strides in elements.
struct Digits {
  const uint8_t* data;
  size_t rows, columns;
  ptrdiff_t row_stride, column_stride;
  uint8_t at(size_t r, size_t c) const {
    return data[ptrdiff_t(r) * row_stride + ptrdiff_t(c) * column_stride];
  }
};

// The rank of a pattern by its number, where patterns are listed; kNotListed for the others.
constexpr uint8_t kNotListed = 255;
struct ListedRanks {
  uint8_t of[256];  // base^k <= 243
};

struct Alphabet {
  int base, k, pad;                     // pad: the digit of padding rows and columns
  const ListedRanks* listed = nullptr;  // null: a pattern's rank is its number
  size_t patterns() const {
    size_t n = 1;
    for (int i = 0; i < k; i++) n *= base;
    return n;
  }
};

inline size_t blocks(const Digits& a, int k) { return (a.columns + k - 1) / k; }

// Packing w16. out: words * padded rows entries, words = ceil(blocks / 3), rows padded to 32.
// False if a digit is not below base, or a pattern is not listed; out is then of no use.
bool pack_w16(const Digits& a, const Alphabet& alphabet, uint16_t* out);

// Sets seen[number of a pattern] for every pattern that occurs, base^k <= 256. Column block j
// covers columns j / stride * k * stride + j % stride + p * stride, p < k; a.columns is a multiple
// of k * stride. False if a digit is not below base.
bool mark_patterns(const Digits& a, int base, int k, size_t stride, uint8_t* seen);

// Packing n4s1, for base 3, k = 3 and padding digit 1. out: 5 bytes per row, padded to 32, and
// eight column blocks. False if a digit is above 2; out is then of no use.
bool pack_n4s1(const Digits& a, uint8_t* out);

// Permutation (blocks, rows) and segment list (blocks, patterns + 1) of every column block.
// False if a digit is not below base.
template <class Index>
bool sort_blocks(const Digits& a, const Alphabet& alphabet, Index* permutation, Index* segments);

}  // namespace rsr
