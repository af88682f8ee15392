// Products with dense matrices of float weights, and of int8 weights with a scale for each row.
#pragma once
#include <cstddef>
#include <cstdint>

namespace rsr {

enum class DenseType { f32, bf16, f16 };

struct DenseMatrix {
  const void* data;  // (rows, columns), unaligned
  size_t rows, columns;
  DenseType dtype;
};

constexpr size_t bytes_of(DenseType dtype) { return dtype == DenseType::f32 ? 4 : 2; }

// The slot of a dtype, of kernels that have one for each.
template <class Kernels>
auto slot_of(const Kernels& kernels, DenseType dtype) {
  return dtype == DenseType::f32    ? kernels.f32
         : dtype == DenseType::bf16 ? kernels.bf16
                                    : kernels.f16;
}

// y[i] = W x[i]; x (count, columns), y (count, rows). float32 sums: a row's error is at most
// columns * 2^-24 * sum |w| |x|, and the result does not depend on `count` or the threads.
void multiply_dense(const DenseMatrix& matrix, const float* x, size_t count, float* y);

// y[i][r] = float32(exact sum of w[r][j] q[i][j]) * scale[r] / divisors[i], where divisors is the s
// of quantize_i8: NaN makes all of y[i] NaN. w (rows, columns), columns < 2^17.
void multiply_rows_i8(const int8_t* w, const float* scale, size_t rows, size_t columns,
                      const int8_t* q, const float* divisors, size_t count, float* y);

}  // namespace rsr
