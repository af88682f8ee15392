// Products with an index in encoding "permuted", the form of the RSR paper.
#pragma once
#include <cstddef>
#include <cstdint>

namespace rsr {

template <class Index>
struct PermutedIndex {
  const Index* permutation;  // (blocks, rows)
  const Index* segments;     // (blocks, patterns + 1)
  size_t rows, columns;      // of the indexed matrix A: W, or W transposed for reduce
  int base, k;
  size_t patterns;       // base^k
  const int8_t* values;  // (base): the value of each digit
  int largest_digit;     // the largest magnitude of a value, 1 or 2
  bool reduce;           // y = x A; otherwise expand, y = A x
  const float* scale;    // one per scale_rows output rows
  size_t scale_rows;

  size_t blocks() const { return (columns + k - 1) / k; }
  size_t in() const { return reduce ? rows : columns; }
  size_t out() const { return reduce ? columns : rows; }
  size_t bytes() const { return blocks() * (rows + patterns + 1) * sizeof(Index); }
};

// y[i] = W x[i] for `count` vectors; x: (count, in), y: (count, out), both contiguous.
// plus_plus: step 2 of RSR++ (paper, section 4.3); otherwise RSR's product with Bin_k.
template <class Index>
void multiply_i8(const PermutedIndex<Index>& a, bool plus_plus, const int8_t* x, size_t count,
                 int32_t* y);
template <class Index>
void multiply_f32(const PermutedIndex<Index>& a, bool plus_plus, const float* x, size_t count,
                  float* y);  // scaled

}  // namespace rsr
