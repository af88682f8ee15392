#include "permuted.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "dispatch.h"
#include "parallel.h"

namespace rsr {
namespace {

constexpr size_t kChunks = 8;  // of column blocks, when outputs are summed over them

template <class Index>
const PermutedKernels<Index>& permuted_kernels() {
  if constexpr (std::is_same_v<Index, uint16_t>)
    return kernels().permuted16;
  else
    return kernels().permuted32;
}

template <class Index, class X, class Sum>
void segment_sums(const X* v, const Index* sigma, const Index* L, size_t patterns, Sum* u) {
  if constexpr (std::is_same_v<X, int8_t>)
    permuted_kernels<Index>().segment_sums_i8(v, sigma, L, patterns, u);
  else
    permuted_kernels<Index>().segment_sums_f32(v, sigma, L, patterns, u);
}

template <class Index, class Sum>
void segment_adds(const Sum* t, const Index* sigma, const Index* L, size_t patterns, Sum* y) {
  if constexpr (std::is_same_v<Sum, int32_t>)
    permuted_kernels<Index>().segment_adds_i32(t, sigma, L, patterns, y);
  else
    permuted_kernels<Index>().segment_adds_f32(t, sigma, L, patterns, y);
}

// Zero digits multiply too, here and below: NaN and infinity spread as in a dense product.

// RSR, reduce: y[j] = sum of u[s] * (digit j of s). k B^k steps.
template <class Index, class Sum>
void multiply_bin(const PermutedIndex<Index>& a, const Sum* u, Sum* y) {
  size_t weight = a.patterns;
  for (int j = 0; j < a.k; j++) {
    weight /= a.base;
    Sum sum = 0;
    for (size_t s = 0; s < a.patterns; s++) sum += u[s] * Sum(a.values[s / weight % a.base]);
    y[j] = sum;
  }
}

// RSR++, reduce: take the last digit off all patterns at once; what it contributes is one output,
// and the sums of B neighbours are the same problem with a digit less. O(B^k) steps in all.
template <class Index, class Sum>
void fold(const PermutedIndex<Index>& a, Sum* u, Sum* y) {
  const int base = a.base;
  size_t size = a.patterns;
  for (int j = a.k; j-- > 0;) {
    size /= base;
    Sum by_digit[3] = {0, 0, 0};
    for (size_t p = 0; p < size; p++) {
      Sum all = 0;
      for (int d = 0; d < base; d++) {
        const Sum v = u[p * base + d];
        by_digit[d] += v;
        all += v;
      }
      u[p] = all;
    }
    Sum sum = 0;
    for (int d = 0; d < base; d++) sum += by_digit[d] * Sum(a.values[d]);
    y[j] = sum;
  }
}

// RSR, expand: t[s] = sum of x[j] * (digit j of s). k B^k steps.
template <class Index, class X, class Sum>
void multiply_bin_transposed(const PermutedIndex<Index>& a, const X* x, Sum* t) {
  std::fill(t, t + a.patterns, Sum(0));
  size_t weight = a.patterns;
  for (int j = 0; j < a.k; j++) {
    weight /= a.base;
    for (size_t s = 0; s < a.patterns; s++) t[s] += Sum(x[j]) * Sum(a.values[s / weight % a.base]);
  }
}

// RSR++, expand: the transpose of fold: one digit more at a time, one addition per entry.
template <class Index, class X, class Sum>
void grow(const PermutedIndex<Index>& a, const X* x, Sum* t) {
  t[0] = 0;
  size_t size = 1;
  for (int j = 0; j < a.k; j++, size *= a.base) {
    for (size_t p = size; p-- > 0;) {
      const Sum shorter = t[p];
      for (int d = a.base; d-- > 0;) t[p * a.base + d] = shorter + Sum(x[j]) * Sum(a.values[d]);
    }
  }
}

template <class Index, class X, class Sum>
void reduce(const PermutedIndex<Index>& a, bool plus_plus, const X* x, Sum* y) {
  parallel_for(a.blocks(), a.bytes(), [&](size_t begin, size_t end) {
    std::vector<Sum> u(a.patterns);
    Sum outputs[16];  // k <= 16
    for (size_t b = begin; b < end; b++) {
      segment_sums(x, a.permutation + b * a.rows, a.segments + b * (a.patterns + 1), a.patterns,
                   u.data());
      plus_plus ? fold(a, u.data(), outputs) : multiply_bin(a, u.data(), outputs);
      std::copy(outputs, outputs + std::min<size_t>(a.k, a.columns - b * a.k), y + b * a.k);
    }
  });
}

// Every block adds to every output. Blocks are cut into chunks by their number alone, each chunk
// has outputs of its own, and these are summed in order: the result is the same on any number of
// threads.
template <class Index, class X, class Sum>
void expand(const PermutedIndex<Index>& a, bool plus_plus, const X* x, Sum* y) {
  const size_t blocks = a.blocks(), chunks = std::min(kChunks, blocks);
  std::vector<Sum> partial(chunks * a.rows);
  parallel_for(chunks, a.bytes(), [&](size_t begin, size_t end) {
    std::vector<Sum> t(a.patterns);
    for (size_t c = begin; c < end; c++) {
      for (size_t b = blocks * c / chunks; b < blocks * (c + 1) / chunks; b++) {
        X inputs[16] = {};  // k <= 16; columns past the last are zero
        std::copy(x + b * a.k, x + std::min((b + 1) * a.k, a.columns), inputs);
        plus_plus ? grow(a, inputs, t.data()) : multiply_bin_transposed(a, inputs, t.data());
        segment_adds(t.data(), a.permutation + b * a.rows, a.segments + b * (a.patterns + 1),
                     a.patterns, partial.data() + c * a.rows);
      }
    }
  });
  std::fill(y, y + a.rows, Sum(0));
  for (size_t c = 0; c < chunks; c++)
    for (size_t r = 0; r < a.rows; r++) y[r] += partial[c * a.rows + r];
}

template <class Index, class X, class Sum>
void multiply(const PermutedIndex<Index>& a, bool plus_plus, const X* x, size_t count, Sum* y) {
  for (size_t i = 0; i < count; i++, x += a.in(), y += a.out())
    a.reduce ? reduce(a, plus_plus, x, y) : expand(a, plus_plus, x, y);
}

}  // namespace

template <class Index>
void multiply_i8(const PermutedIndex<Index>& a, bool plus_plus, const int8_t* x, size_t count,
                 int32_t* y) {
  multiply(a, plus_plus, x, count, y);
}

template <class Index>
void multiply_f32(const PermutedIndex<Index>& a, bool plus_plus, const float* x, size_t count,
                  float* y) {
  multiply(a, plus_plus, x, count, y);
  for (size_t i = 0; i < count; i++, y += a.out())
    for (size_t r = 0; r < a.out(); r++) y[r] *= a.scale[r / a.scale_rows];
}

template void multiply_i8(const PermutedIndex<uint16_t>&, bool, const int8_t*, size_t, int32_t*);
template void multiply_i8(const PermutedIndex<uint32_t>&, bool, const int8_t*, size_t, int32_t*);
template void multiply_f32(const PermutedIndex<uint16_t>&, bool, const float*, size_t, float*);
template void multiply_f32(const PermutedIndex<uint32_t>&, bool, const float*, size_t, float*);

}  // namespace rsr
