#include "dense/dense.h"

#include <algorithm>

#include "dispatch.h"
#include "parallel.h"

namespace rsr {
namespace {

constexpr size_t kTaskRows = 32;  // rows handed to a thread at once: at least these

// Sets of vectors visit the same weights in turn. Panels of this size come from memory once and
// from L2 after that.
constexpr size_t kPanelBytes = 256 << 10;

// A larger matrix comes from memory, where the order of reads matters more than parallel sums.
constexpr size_t kCachedBytes = 16 << 20;

template <class X>
void multiply(void (*kernel)(const DenseRows<X>&), const DenseRows<X>& all, size_t weight_bytes) {
  if (all.count == 0) return;
  const size_t row_bytes = all.columns * weight_bytes;
  const size_t fitting = kPanelBytes / std::max<size_t>(1, row_bytes) / kTaskRows * kTaskRows;
  const size_t panel = std::max(fitting, kTaskRows);
  const bool in_order =
      all.count == 1 && all.rows * row_bytes > kCachedBytes && kernels().dense.large_in_order;
  parallel_for((all.rows + kTaskRows - 1) / kTaskRows, all.rows * row_bytes * all.count,
               [&](size_t begin, size_t end) {
                 const size_t last = std::min(end * kTaskRows, all.rows);
                 for (size_t r = begin * kTaskRows; r < last; r += panel) {
                   DenseRows<X> part = all;
                   part.weights = static_cast<const char*>(all.weights) + r * row_bytes;
                   part.rows = std::min(panel, last - r);
                   part.in_order = in_order;
                   part.y += r;
                   if (part.scale) part.scale += r;
                   kernel(part);
                 }
               });
}

}  // namespace

void multiply_dense(const DenseMatrix& matrix, const float* x, size_t count, float* y) {
  multiply(slot_of(kernels().dense, matrix.dtype),
           {matrix.data, matrix.rows, matrix.columns, x, count, y, matrix.rows},
           bytes_of(matrix.dtype));
}

void multiply_rows_i8(const int8_t* w, const float* scale, size_t rows, size_t columns,
                      const int8_t* q, const float* divisors, size_t count, float* y) {
  multiply(kernels().dense.i8, {w, rows, columns, q, count, y, rows, scale, divisors}, 1);
}

}  // namespace rsr
