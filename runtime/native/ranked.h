// Products with an index in encoding "ranked", in either packing.
#pragma once
#include <cstddef>
#include <cstdint>

#include "packing.h"

namespace rsr {

// Each group of `columns` columns has its own scales. No column block spans two groups, and in
// packing n4s1 no unit does.
struct IndexGroups {
  size_t columns = 0;          // of a group; 0: no groups
  const void* data = nullptr;  // (groups, rows), float16 or float32
  bool is_half = false;
};

constexpr size_t kStepColumns = 128;  // of a group of inputs that are quantized by groups, if the
                                      // scales have no groups

struct RankedIndex {
  Packing packing;
  const uint8_t* data;      // strips of columns (packing.h)
  size_t rows, columns;     // out_features, in_features
  int k;                    // inputs of a column block
  const int16_t* patterns;  // (k, kPatterns): value of digit d in pattern p
  int largest_digit;        // of them (packing.h)
  bool has_few_patterns;    // no more than kFewPatterns: the others are zeros
  const float* scale;       // one per scale_rows rows
  size_t scale_rows;
  IndexGroups groups;  // if present, their scales replace `scale`
  size_t stride = 1;   // from one input of a block to the next; above 1 no block has padding

  size_t group_blocks() const;   // column blocks of a group; without groups, of all columns
  size_t blocks() const;         // column blocks, without those that pad the last column
  size_t index_columns() const;  // word columns or units
  size_t row_bytes() const;      // of one row in all columns
  size_t padded_rows() const { return (rows + kRowUnit - 1) / kRowUnit * kRowUnit; }
  // Columns of a group of inputs that are quantized by groups, and their number.
  size_t step_columns() const { return groups.columns ? groups.columns : kStepColumns; }
  size_t step_count() const { return divide_up(columns, step_columns()); }
  size_t bytes() const { return row_bytes() * padded_rows(); }

  // Whether lookup tables built for one index serve the other.
  bool shares_input(const RankedIndex& other) const;
};

template <class Out>
struct RankedProduct {
  const RankedIndex* index;
  Out* y;  // (count, rows), contiguous; or as Orders says
};

// Whether vectors are the rows or the columns of an array: x is then (count, columns) or (columns,
// count), y (count, rows) or (rows, count).
enum class Order { rows, columns };
struct Orders {
  Order x = Order::rows, y = Order::rows;
};

// y[i] = W x[i] for `count` vectors and each of `products`, which share their input; x: (count,
// columns), contiguous. Lookup tables are built once, and all products run in one parallel region.
// Each result is bit-identical to that of the product alone.
void multiply_i8(const RankedProduct<int32_t>* products, size_t size, const int8_t* x, size_t count,
                 Orders orders = {});  // exact, unscaled
void multiply_f32(const RankedProduct<float>* products, size_t size, const float* x, size_t count,
                  Orders orders = {});  // scaled
// W x[i] in exact integers, then * scale / divisors[i], each rounded to float32. With groups, the
// float32 sum over groups of scale * exact sum, then / divisors[i].
void multiply_quantized(const RankedProduct<float>* products, size_t size, const int8_t* x,
                        const float* divisors, size_t count);
// The same of the int8 vectors and divisors that quantize_i8 (decoder/activations.h) makes of x.
void multiply_quantizing(const RankedProduct<float>* products, size_t size, const float* x,
                         size_t count);
// The float32 sum over groups of (scale * steps[i][group]) * exact sum. steps: (count, step_count).
// Without groups of scales see step_groups.h.
void multiply_group_quantized(const RankedProduct<float>* products, size_t size, const int8_t* x,
                              const float* steps, size_t count);
// The same of the int8 vectors and steps that quantize_groups_i8 (decoder/activations.h) makes of x
// by groups of step_columns().
void multiply_group_quantizing(const RankedProduct<float>* products, size_t size, const float* x,
                               size_t count);

// The same of products that each have one vector of their own: y[j] = W[j] x[j], x (size, columns),
// divisors (size), steps (size, step_count). The indices have the same kind of input
// (shares_input).
void multiply_each_f32(const RankedProduct<float>* products, size_t size, const float* x);
void multiply_each_quantized(const RankedProduct<float>* products, size_t size, const int8_t* x,
                             const float* divisors);
void multiply_each_group_quantized(const RankedProduct<float>* products, size_t size,
                                   const int8_t* x, const float* steps);

}  // namespace rsr
