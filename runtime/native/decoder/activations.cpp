#include "decoder/activations.h"

#include "buffer.h"
#include "dispatch.h"
#include "parallel.h"

namespace rsr {
namespace {

thread_local Buffer gated_row;

RowOutput row_of(const RowOutput& first, size_t i) {
  RowOutput to = first;
  if (to.out) to.out += i * to.n;
  if (to.q) to.q += i * to.n, to.s += i * scale_count(to);
  return to;
}

// Floats for a row that has none of its own: they stay in the cache.
float* floats_of(const RowOutput& row) {
  return row.out ? row.out : static_cast<float*>(gated_row.get(row.n * sizeof(float)));
}

// Calls work(i) for each row; `passes` is how often it reads its floats, a measure of the work.
template <class Work>
void for_each_row(size_t count, size_t n, size_t passes, const Work& work) {
  if (count == 1) return work(0);
  parallel_for(count, count * n * sizeof(float) * passes, [&work](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) work(i);
  });
}

}  // namespace

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
