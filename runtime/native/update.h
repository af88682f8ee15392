// Gives weights of an index other digits, in place.
#pragma once
#include <cstddef>
#include <cstdint>

namespace rsr {

// Weight i lies in row rows[i] of the indexed matrix and in column block blocks[i]. In the number
// of its pattern, base^k digits long, its digit counts weights[i] = base^0 .. base^(k - 1).
// Of two changes of one weight the later one wins. The caller has checked all values.
struct Changes {
  const uint32_t* rows;
  const uint32_t* blocks;
  const uint16_t* weights;
  const uint8_t* digits;
  size_t count;
};

// The patterns that a matrix lists, and how often each occurs.
struct Listed {
  const uint8_t* numbers;  // by rank, ascending
  int64_t* occurrences;    // by rank
  size_t count;            // at most kPatterns
};

// An index in packing w16 (packing.h).
struct W16Index {
  uint16_t* words;
  size_t word_columns, padded_rows;
};

// An index in packing n4s1. Column block j has its magnitude in nibble places[j] mod 2 of byte
// magnitudes[j] of a row, and its sign in bit 7 - places[j] of byte signs[j].
struct N4S1Index {
  uint8_t* bytes;
  size_t row_bytes, padded_rows;
  const uint32_t* magnitudes;
  const uint32_t* signs;
  const uint8_t* places;
};

// A permuted index: permutation (blocks, rows), segments (blocks, patterns + 1).
template <class Index>
struct SortedBlocks {
  Index* permutation;
  Index* segments;
  size_t rows, patterns;
};

// listed: null if the matrix has all base^k patterns. Otherwise all changes of one row and block
// must follow one another. Returns false, having changed nothing, if a pattern would not be listed.
bool set_digits(const W16Index& index, unsigned base, const Listed* listed, const Changes& changes);

void set_digits(const N4S1Index& index, unsigned base, const Changes& changes);

// All changes of one block must follow one another. Sorts the rows of each block that changes
// again, stably: O(rows + patterns) a block.
template <class Index>
void set_digits(const SortedBlocks<Index>& index, unsigned base, const Changes& changes);

}  // namespace rsr
