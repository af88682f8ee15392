// RSR's products with Bin_k. Everything here has internal linkage: each file that includes it
// compiles its own copy for its own instruction set. AVX2 multiplies vectors of int32, SSE2 cannot.
#pragma once
#include <cstddef>
#include <cstdint>

namespace rsr {
namespace {

void multiply_bin(const int32_t* bin, int k, size_t patterns, const int32_t* u, int32_t* y) {
  for (int j = 0; j < k; j++, bin += patterns) {
    int32_t sum = 0;
    for (size_t s = 0; s < patterns; s++) sum += u[s] * bin[s];
    y[j] = sum;
  }
}

void multiply_bin_transposed(const int32_t* bin, int k, size_t patterns, const int32_t* x,
                             int32_t* t) {
  for (size_t s = 0; s < patterns; s++) t[s] = x[0] * bin[s];
  for (int j = 1; j < k; j++)
    for (size_t s = 0; s < patterns; s++) t[s] += x[j] * bin[j * patterns + s];
}

}  // namespace
}  // namespace rsr
