// A mixture of experts: the router's choice, and the MLPs of the experts that it chose.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "dense/dense.h"
#include "ranked.h"
#include "rotation/rotation.h"
#include "table.h"

namespace rsr {

// For each of `count` rows of `experts` logits: `chosen` (count, k), the experts with the k largest
// probabilities, of equal ones the first, in ascending order; and `weights` (count, k), their
// probabilities, divided by their sum if `normalized`. A row that is not finite gets NaN weights.
// k <= experts.
//
// |error| <= (9 + largest logit - logit) 2^-24 of a weight: the argument of exp is rounded once,
// exp is accurate to 2^-22, and sums are double.
void route(const float* logits, size_t count, size_t experts, size_t k, bool normalized,
           int32_t* chosen, float* weights);

// A matrix of an expert: an index, or dense where `index` is null.
struct ExpertMatrix {
  const RankedIndex* index;
  DenseMatrix dense;

  size_t rows() const { return index ? index->rows : dense.rows; }
  size_t columns() const { return index ? index->columns : dense.columns; }
};

struct Expert {
  ExpertMatrix gate, up, down;
};

// What the indices of a layer's experts multiply. Dense matrices take floats.
enum class ExpertInput { floats, int8, int8_groups };

struct ExpertLayer {
  std::vector<Expert> experts;
  size_t hidden, width;  // columns and rows of gate and up
  ExpertInput input, down_input;
  size_t group_columns, down_group_columns;  // of int8_groups
  bool has_dense, has_dense_down;
  Activation activation;
  Rotation down_rotation;  // of the inputs of down; without factors: none
};

// Rows of inputs, (count, hidden): floats, or q and s as of quantize_i8 or quantize_groups_i8, or
// both; what no matrix takes is null.
struct ExpertRows {
  const float* floats;
  const int8_t* q;
  const float* s;
};

// y[i] = sum over j of weights[i][j] * down(activation(gate(x[i])) * up(x[i])), in the order of the
// experts chosen[i][j]; y (count, hidden), chosen and weights (count, k). Inputs of gate and up are
// in the basis of these matrices; those of down are rotated here.
//
// The pairs of a row and an expert are sorted by expert, and each expert multiplies its rows at
// once, so that its index is read once. With int8 inputs a result does not depend on other rows:
// products are exact, and each row adds its experts in ascending order.
//
// A caller that must not work for long calls it `parts` times in order, with part 0, 1, ...: each
// takes the same number of pairs, whatever the router chose.
void multiply_experts(const ExpertLayer& layer, const ExpertRows& x, size_t count,
                      const int32_t* chosen, const float* weights, size_t k, size_t part,
                      size_t parts, float* y);

}  // namespace rsr
