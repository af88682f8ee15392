// Inputs quantized by groups of columns, times an index whose scales have no groups.
#pragma once
#include "ranked.h"

namespace rsr {

// multiply_group_quantized (ranked.h) for indices without groups of scales: y[i] = scale * the sum
// over groups of steps[i][group] * (the exact sum of the group's columns), in float32. With many
// vectors x[i] * step in float32 is multiplied as by multiply_f32.
//
// |error| <= n 2^-24 |scale| sum|x * step|, n = columns + 2, at least 5.
void multiply_step_groups(const RankedProduct<float>* products, size_t size, const int8_t* x,
                          const float* steps, size_t count);
// x is quantized first.
void multiply_step_groups(const RankedProduct<float>* products, size_t size, const float* x,
                          size_t count);

}  // namespace rsr
