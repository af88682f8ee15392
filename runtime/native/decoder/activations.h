// Rows of activations between the products of a decoder: residual sums, norms, gates, quantization.
#pragma once
#include "table.h"

namespace rsr {

// For each of `count` rows of n: s = 127 * (1 / max(max|x|, 1e-5)), in two roundings as PyTorch
// computes 127 / max, and q = clip(round_half_even(x s), -128, 127) (BitNet b1.58, arXiv
// 2402.17764, section 2). So x ~ q / s. A row that is not finite gets s = NaN and q = 0; results
// divided by s are then NaN.
void quantize_i8(const float* x, size_t count, size_t n, int8_t* q, float* s);

// For each of `count` rows of n and each group g of `group_columns` columns, of which the last may
// have fewer, in float32: steps[g] = m / 127 and q = round_half_even(x * (127 / m)), with m the
// largest |x| of the group; so x ~ q * steps[g]. Both are 0 where m < 2^-119. A group that is not
// finite gets steps[g] = NaN and q = 0, which makes every sum over its row NaN.
//
// |q| <= 127: x * (127 / m) takes two roundings and is at most 127 (1 + 2^-23).
//
// steps: (count, groups).
void quantize_groups_i8(const float* x, size_t count, size_t n, size_t group_columns, int8_t* q,
                        float* steps);

// In these functions `to` is the first of `count` rows; its out, q and s point to `count` rows too.

// x += add, unless add is null; then `to` of x.
void normalize(float* x, const float* add, size_t count, const RowOutput& to);

// `to` of activation(gate) * up.
void gated(const float* gate, const float* up, Activation activation, size_t count,
           const RowOutput& to);

// `to`, which has no weight, of the RMS norm of each head (d) of x times weight, times silu(z).
void norm_gated(const float* x, const float* z, size_t d, const float* weight, float eps,
                size_t count, const RowOutput& to);

}  // namespace rsr
