// Products with indices in encoding "ranked", in any packing.
#pragma once
#include <cstddef>
#include <cstdint>

namespace rsr {

enum class Packing { w16, n4s1 };

// Packing w16: every group of `columns` columns is cut into column blocks by itself.
struct IndexGroups {
  size_t columns = 0;          // of a group; 0: there are no groups
  const void* data = nullptr;  // (groups, rows), float16 or float32
  bool is_half = false;
};

struct RankedIndex {
  Packing packing;
  const uint8_t* data;      // strips of columns, formats/SPEC.md
  size_t rows, columns;     // out_features, in_features
  int k;                    // columns of a column block
  const int16_t* patterns;  // (k, 32): value of digit d in pattern p
  const float* scale;       // one per scale_rows rows
  size_t scale_rows;
  IndexGroups groups;  // instead of `scale` where groups of columns have their own
  size_t stride = 1;   // from one column of a block to the next; above 1 no block has padding

  size_t group_blocks() const;   // column blocks of a group (of all columns, without groups)
  size_t blocks() const;         // column blocks, without those that fill the last column
  size_t index_columns() const;  // word columns or units
  size_t row_bytes() const;      // of one row in all of them
  size_t padded_rows() const { return (rows + 31) / 32 * 32; }
  size_t bytes() const { return row_bytes() * padded_rows(); }

  // Whether a table of sums made for one serves the other: both multiply the same inputs.
  bool shares_input(const RankedIndex& other) const;
};

template <class Out>
struct RankedProduct {
  const RankedIndex* index;
  Out* y;  // (count, rows), contiguous
};

// y[i] = W x[i] for `count` vectors and each of `products`, which share their input; x: (count,
// columns), contiguous. The tables are made once, and all products run in one parallel region.
// Every result is what the product alone would give.
void multiply_i8(const RankedProduct<int32_t>* products, size_t size, const int8_t* x,
                 size_t count);  // exact, unscaled
void multiply_f32(const RankedProduct<float>* products, size_t size, const float* x,
                  size_t count);  // scaled
// W x[i] in exact integers, then * scale / divisors[i], each rounded to float32; with groups the
// float32 sum of theirs, / divisors[i].
void multiply_quantized(const RankedProduct<float>* products, size_t size, const int8_t* x,
                        const float* divisors, size_t count);

}  // namespace rsr
