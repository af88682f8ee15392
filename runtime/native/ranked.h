// Products with an index in encoding "ranked", packing "w16".
#pragma once
#include <cstddef>
#include <cstdint>

namespace rsr {

struct RankedIndex {
  const uint16_t* words;    // strips of word columns, formats/SPEC.md
  size_t rows, columns;     // out_features, in_features
  int k;                    // columns of a column block
  const int16_t* patterns;  // (k, 32): value of digit d in pattern p
  const float* scale;       // one per scale_rows rows
  size_t scale_rows;

  size_t word_columns() const { return ((columns + k - 1) / k + 2) / 3; }
  size_t padded_rows() const { return (rows + 31) / 32 * 32; }
  size_t bytes() const { return word_columns() * padded_rows() * 2; }
};

// y[i] = W x[i] for `count` vectors; x: (count, columns), y: (count, rows), both contiguous.
void multiply_i8(const RankedIndex& index, const int8_t* x, size_t count, int32_t* y);
void multiply_f32(const RankedIndex& index, const float* x, size_t count, float* y);  // scaled

}  // namespace rsr
