// int8 activations as BitNet b1.58 defines them (arXiv 2402.17764, section 2).
#pragma once
#include <cstddef>
#include <cstdint>

namespace rsr {

// For each of `count` rows of n: s = 127 * (1 / max(max|x|, 1e-5)), in two roundings as PyTorch
// computes 127 / max, and q = clip(round_half_even(x s), -128, 127). x ~ q / s.
// A row that is not finite gets s = NaN, so that what is divided by s is NaN too.
void quantize_i8(const float* x, size_t count, size_t n, int8_t* q, float* s);

}  // namespace rsr
