#include "rotation/rotation.h"

#include "buffer.h"
#include "dispatch.h"
#include "parallel.h"

namespace rsr {
namespace {

thread_local Buffer rotated_row;

// Calls work(i) for each row. A row takes about as long as reading its floats three times.
template <class Work>
void for_each_row(size_t count, size_t n, const Work& work) {
  if (count == 1) return work(0);
  parallel_for(count, count * n * sizeof(float) * 3, [&work](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) work(i);
  });
}

}  // namespace

void rotate_rows(const float* x, size_t count, const Rotation& by, const RowOutput& to) {
  const auto transform = kernels().hadamard.forward;
  const auto quantize = kernels().decoder.normalize;
  for_each_row(count, by.n, [&](size_t i) {
    // A row that is only quantized stays in the cache.
    float* y =
        to.out ? to.out + i * by.n : static_cast<float*>(rotated_row.get(by.n * sizeof(float)));
    transform(x + i * by.n, by.factors, by.n, by.block, y);
    if (!to.q) return;
    RowOutput row = to;
    row.out = nullptr;
    row.q += i * by.n;
    row.s += i * scale_count(to);
    quantize(y, nullptr, row);
  });
}

void rotate_rows_back(const float* x, size_t count, const Rotation& by, float* y) {
  const auto transform = kernels().hadamard.inverse;
  for_each_row(count, by.n, [&](size_t i) {
    transform(x + i * by.n, by.factors, by.n, by.block, y + i * by.n);
  });
}

}  // namespace rsr
