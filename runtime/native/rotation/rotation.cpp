#include "rotation/rotation.h"

#include "decoder/rows.h"
#include "dispatch.h"

namespace rsr {
namespace {

constexpr size_t kPasses = 3;  // a row takes about as long as reading its floats so often

}  // namespace

void rotate_rows(const float* x, size_t count, const Rotation& by, const RowOutput& to) {
  const auto transform = kernels().hadamard.forward;
  const auto quantize = kernels().decoder.normalize;
  for_each_row(count, by.n, kPasses, [&](size_t i) {
    RowOutput row = row_of(to, i);
    float* y = floats_of(row);
    transform(x + i * by.n, by.factors, by.n, by.block, y);
    if (!row.q) return;
    row.out = nullptr;
    quantize(y, nullptr, row);
  });
}

void rotate_rows_back(const float* x, size_t count, const Rotation& by, float* y) {
  const auto transform = kernels().hadamard.inverse;
  for_each_row(count, by.n, kPasses, [&](size_t i) {
    transform(x + i * by.n, by.factors, by.n, by.block, y + i * by.n);
  });
}

}  // namespace rsr
