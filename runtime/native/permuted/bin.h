// RSR's products with Bin_k, modulo 2^32. AVX2 multiplies vectors of int32, SSE2 does not.
//
// Internal linkage: each file that includes this compiles its own (table.h).
#pragma once
#include <cstddef>
#include <cstdint>

namespace rsr {
namespace {

inline uint32_t product(int32_t a, int32_t b) {
  return static_cast<uint32_t>(a) * static_cast<uint32_t>(b);
}

void multiply_bin(const int32_t* bin, int k, size_t patterns, const int32_t* u, int32_t* y) {
  for (int j = 0; j < k; j++, bin += patterns) {
    uint32_t sum = 0;
    for (size_t s = 0; s < patterns; s++) sum += product(u[s], bin[s]);
    y[j] = static_cast<int32_t>(sum);
  }
}

void multiply_bin_transposed(const int32_t* bin, int k, size_t patterns, const int32_t* x,
                             int32_t* t) {
  for (size_t s = 0; s < patterns; s++) t[s] = static_cast<int32_t>(product(x[0], bin[s]));
  for (int j = 1; j < k; j++)
    for (size_t s = 0; s < patterns; s++)
      t[s] =
          static_cast<int32_t>(static_cast<uint32_t>(t[s]) + product(x[j], bin[j * patterns + s]));
}

}  // namespace
}  // namespace rsr
