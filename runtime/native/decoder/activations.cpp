#include "decoder/activations.h"

#include "decoder/rows.h"
#include "dispatch.h"

namespace rsr {

void normalize(float* x, const float* add, size_t count, const RowOutput& to) {
  const auto kernel = kernels().decoder.normalize;
  for_each_row(count, to.n, 2, [&](size_t i) {
    kernel(x + i * to.n, add ? add + i * to.n : nullptr, row_of(to, i));
  });
}

void gated(const float* gate, const float* up, Activation activation, size_t count,
           const RowOutput& to) {
  const auto kernel = kernels().decoder.gate;
  for_each_row(count, to.n, 4, [&](size_t i) {
    const RowOutput row = row_of(to, i);
    kernel(gate + i * to.n, up + i * to.n, activation, floats_of(row), row);
  });
}

void norm_gated(const float* x, const float* z, size_t d, const float* weight, float eps,
                size_t count, const RowOutput& to) {
  const auto kernel = kernels().delta_net.norm_gated;
  for_each_row(count, to.n, 4, [&](size_t i) {
    const RowOutput row = row_of(to, i);
    kernel(x + i * to.n, z + i * to.n, d, weight, eps, floats_of(row), row);
  });
}

void quantize_i8(const float* x, size_t count, size_t n, int8_t* q, float* s) {
  // With nothing to add, normalize only reads x.
  normalize(const_cast<float*>(x), nullptr, count, {n, nullptr, 0.0f, nullptr, q, s});
}

void quantize_groups_i8(const float* x, size_t count, size_t n, size_t group_columns, int8_t* q,
                        float* steps) {
  normalize(const_cast<float*>(x), nullptr, count,
            {n, nullptr, 0.0f, nullptr, q, steps, group_columns});
}

}  // namespace rsr
