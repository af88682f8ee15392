// Rows of activations between the products of a decoder: residual sums, norms, gates, int8.
#pragma once
#include "table.h"

namespace rsr {

// For each of `count` rows of n: s = 127 * (1 / max(max|x|, 1e-5)), in two roundings as PyTorch
// computes 127 / max, and q = clip(round_half_even(x s), -128, 127), as BitNet b1.58 defines them
// (arXiv 2402.17764, section 2). x ~ q / s.
// A row that is not finite gets s = NaN, so that what is divided by s is NaN too.
void quantize_i8(const float* x, size_t count, size_t n, int8_t* q, float* s);

// `to` is the first of `count` rows; all that it points to but the weight has a row for each.

// x += add, where there is one; then `to`.
void normalize(float* x, const float* add, size_t count, const RowOutput& to);

// activation(gate) * up, then `to` of that.
void gated(const float* gate, const float* up, Activation activation, size_t count,
           const RowOutput& to);

}  // namespace rsr
