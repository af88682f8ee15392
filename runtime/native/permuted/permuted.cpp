#include "permuted/permuted.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "dispatch.h"
#include "parallel.h"

// All sums are int32. int8 inputs are integers, fewer than columns_end (packing.h); float32 inputs
// become fixed point, with 30 bits for the sum of their magnitudes, or 29 if a digit is 2. So every
// sum fits int32, additions are exact in any order, and a segment's sum may be the difference of
// two running sums, which needs no branch (segments_scalar.cpp). A float32 product then has one
// rounding per input, of at most 2^-29 sum|x|, and one of the result: within n 2^-24 sum|x| times
// the largest digit for n >= 3, the rounding of the scale included.
//
// If x has NaN or infinity, the same algorithms run in float32.

namespace rsr {
namespace {

constexpr size_t kChunks = 8;   // of column blocks in expand, each with its own outputs
constexpr int kMaxDigits = 16;  // the largest k
constexpr int kBits = 30;       // of the sum of magnitudes of a fixed-point vector, times a digit

template <class Index>
const PermutedKernels<Index>& permuted_kernels() {
  if constexpr (std::is_same_v<Index, uint16_t>)
    return kernels().permuted16;
  else
    return kernels().permuted32;
}

// u[s] = sum of v[sigma[i]] over segment s (paper, Algorithm 2). Only int32 uses scratch.
template <class Index, class Sum>
void segment_sums(const Sum* v, const Index* sigma, const Index* L, size_t patterns, Sum* scratch,
                  Sum* u) {
  if constexpr (std::is_same_v<Sum, int32_t>) {
    permuted_kernels<Index>().segment_sums(v, sigma, L, patterns, scratch, u);
  } else {
    for (size_t s = 0; s < patterns; s++) {
      u[s] = 0;
      for (size_t i = L[s]; i < L[s + 1]; i++) u[s] += v[sigma[i]];
    }
  }
}

// y[sigma[i]] += t[s] over segment s.
template <class Index, class Sum>
void segment_adds(const Sum* t, const Index* sigma, const Index* L, size_t patterns, Sum* scratch,
                  Sum* y) {
  if constexpr (std::is_same_v<Sum, int32_t>) {
    permuted_kernels<Index>().segment_adds(t, sigma, L, patterns, scratch, y);
  } else {
    for (size_t s = 0; s < patterns; s++)
      for (size_t i = L[s]; i < L[s + 1]; i++) y[sigma[i]] += t[s];
  }
}

// Zero digits are multiplied, not skipped, so that NaN and infinity spread as in a dense product.

// Bin_k of the paper, transposed: entry (j, s) is the value of digit j in pattern s.
template <class Sum, class Index>
std::vector<Sum> make_bin(const PermutedIndex<Index>& a) {
  std::vector<Sum> bin(a.k * a.patterns);
  size_t weight = a.patterns;
  for (int j = 0; j < a.k; j++) {
    weight /= a.base;
    for (size_t s = 0; s < a.patterns; s++)
      bin[j * a.patterns + s] = Sum(a.values[s / weight % a.base]);
  }
  return bin;
}

// RSR, reduce: y = u Bin_k. k B^k steps.
template <class Index, class Sum>
void multiply_bin(const PermutedIndex<Index>& a, const Sum* bin, const Sum* u, Sum* y) {
  if constexpr (std::is_same_v<Sum, int32_t>) {
    kernels().bin.multiply(bin, a.k, a.patterns, u, y);
  } else {
    std::fill(y, y + a.k, Sum(0));
    for (int j = 0; j < a.k; j++)
      for (size_t s = 0; s < a.patterns; s++) y[j] += u[s] * bin[j * a.patterns + s];
  }
}

// kBatch interleaved vectors: a sum of each.
struct BatchSum {
  int32_t of[kBatch];

  void operator+=(const BatchSum& other) {
    for (size_t i = 0; i < kBatch; i++) of[i] += other.of[i];
  }
  BatchSum operator*(int32_t by) const {
    BatchSum product;
    for (size_t i = 0; i < kBatch; i++) product.of[i] = of[i] * by;
    return product;
  }
};

template <int B, class Sum>
void fold_base(size_t patterns, int k, const int8_t* values, Sum* u, Sum* y) {
  size_t size = patterns;
  for (int j = 0; j < k; j++) {
    size /= B;
    Sum by_digit[B] = {};
    for (size_t p = 0; p < size; p++) {
      Sum all = {};
      for (int d = 0; d < B; d++) {
        by_digit[d] += u[d * size + p];
        all += u[d * size + p];
      }
      u[p] = all;
    }
    y[j] = {};
    for (int d = 0; d < B; d++) y[j] += by_digit[d] * values[d];
  }
}

// RSR++, reduce: removes the first digit from all patterns at once. Its contribution is one output;
// the sums over it are the same problem with one digit less. O(B^k) steps in all.
template <class Index, class Sum>
void fold(const PermutedIndex<Index>& a, Sum* u, Sum* y) {
  switch (a.base) {
    case 2:
      return fold_base<2>(a.patterns, a.k, a.values, u, y);
    case 3:
      return fold_base<3>(a.patterns, a.k, a.values, u, y);
    case 4:
      return fold_base<4>(a.patterns, a.k, a.values, u, y);
    default:
      return fold_base<5>(a.patterns, a.k, a.values, u, y);
  }
}

// RSR, expand: t = Bin_k x. k B^k steps.
template <class Index, class Sum>
void multiply_bin_transposed(const PermutedIndex<Index>& a, const Sum* bin, const Sum* x, Sum* t) {
  if constexpr (std::is_same_v<Sum, int32_t>) {
    kernels().bin.multiply_transposed(bin, a.k, a.patterns, x, t);
  } else {
    std::fill(t, t + a.patterns, Sum(0));
    for (int j = 0; j < a.k; j++)
      for (size_t s = 0; s < a.patterns; s++) t[s] += x[j] * bin[j * a.patterns + s];
  }
}

// RSR++, expand, the transpose of fold: adds a digit at a time, with one addition per entry.
template <class Index, class Sum>
void build_table(const PermutedIndex<Index>& a, const Sum* x, Sum* t) {
  t[0] = 0;
  size_t size = 1;
  for (int j = a.k; j-- > 0; size *= a.base) {
    for (int d = a.base; d-- > 0;) {  // t[0 .. size) last: the others are made from it
      const Sum more = x[j] * Sum(a.values[d]);
      for (size_t p = 0; p < size; p++) t[d * size + p] = t[p] + more;
    }
  }
}

template <class Index, class Sum>
void reduce(const PermutedIndex<Index>& a, bool plus_plus, const Sum* x, Sum* y) {
  const std::vector<Sum> bin = plus_plus ? std::vector<Sum>() : make_bin<Sum>(a);
  parallel_for(a.blocks(), a.bytes(), [&](size_t begin, size_t end) {
    std::vector<Sum> u(a.patterns), scratch(kSumLanes + a.rows);
    Sum outputs[kMaxDigits];
    for (size_t b = begin; b < end; b++) {
      segment_sums(x, a.permutation + b * a.rows, a.segments + b * (a.patterns + 1), a.patterns,
                   scratch.data(), u.data());
      plus_plus ? fold(a, u.data(), outputs) : multiply_bin(a, bin.data(), u.data(), outputs);
      std::copy(outputs, outputs + std::min<size_t>(a.k, a.columns - b * a.k), y + b * a.k);
    }
  });
}

// Every block adds to every output. The number of blocks alone decides their chunks. Each chunk has
// its own outputs, which are summed in order, so the result is the same for any number of threads.
template <class Index, class Sum>
void expand(const PermutedIndex<Index>& a, bool plus_plus, const Sum* x, Sum* y) {
  const std::vector<Sum> bin = plus_plus ? std::vector<Sum>() : make_bin<Sum>(a);
  const size_t blocks = a.blocks(), chunks = std::min(kChunks, blocks);
  std::vector<Sum> partial(chunks * a.rows);
  parallel_for(chunks, a.bytes(), [&](size_t begin, size_t end) {
    std::vector<Sum> t(a.patterns), scratch(a.rows + 1);
    for (size_t c = begin; c < end; c++) {
      for (size_t b = blocks * c / chunks; b < blocks * (c + 1) / chunks; b++) {
        Sum inputs[kMaxDigits] = {};  // zeros past the last column
        std::copy(x + b * a.k, x + std::min((b + 1) * a.k, a.columns), inputs);
        plus_plus ? build_table(a, inputs, t.data())
                  : multiply_bin_transposed(a, bin.data(), inputs, t.data());
        segment_adds(t.data(), a.permutation + b * a.rows, a.segments + b * (a.patterns + 1),
                     a.patterns, scratch.data(), partial.data() + c * a.rows);
      }
    }
  });
  std::fill(y, y + a.rows, Sum(0));
  for (size_t c = 0; c < chunks; c++)
    for (size_t r = 0; r < a.rows; r++) y[r] += partial[c * a.rows + r];
}

// RSR++, reduce, for kBatch interleaved vectors: x (rows, kBatch), y (columns, kBatch). The
// permutation is read once for all of them, and each entry fetches a whole cache line of x.
template <class Index>
void reduce_batch(const PermutedIndex<Index>& a, const int32_t* x, int32_t* y) {
  parallel_for(a.blocks(), a.bytes(), [&](size_t begin, size_t end) {
    std::vector<BatchSum> u(a.patterns);
    BatchSum outputs[kMaxDigits];
    for (size_t b = begin; b < end; b++) {
      permuted_kernels<Index>().segment_sums_batch(
          x, a.permutation + b * a.rows, a.segments + b * (a.patterns + 1), a.patterns, u[0].of);
      fold(a, u.data(), outputs);
      const size_t columns = std::min<size_t>(a.k, a.columns - b * a.k);
      std::memcpy(y + b * a.k * kBatch, outputs, columns * sizeof(BatchSum));
    }
  });
}

template <class Index, class Sum>
void multiply(const PermutedIndex<Index>& a, bool plus_plus, const Sum* x, Sum* y) {
  a.reduce ? reduce(a, plus_plus, x, y) : expand(a, plus_plus, x, y);
}

double sum_of_magnitudes(const float* x, size_t n) {
  double lanes[8] = {};  // eight sums, so that no addition waits for the one before
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (size_t j = 0; j < 8; j++) lanes[j] += std::fabs(double(x[i + j]));
  for (; i < n; i++) lanes[0] += std::fabs(double(x[i]));
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

// q[i * stride] * unit is x[i], rounded; the sum of |q| is at most 2^bits + n / 2. Returns unit.
double to_fixed_point(const float* x, size_t n, double sum, int bits, int32_t* q, size_t stride) {
  int exponent;
  std::frexp(sum, &exponent);  // sum < 2^exponent
  const double inverse = std::ldexp(1.0, bits - exponent);
  for (size_t i = 0; i < n; i++) {
    const double v = double(x[i]) * inverse;
    q[i * stride] = static_cast<int32_t>(v + (v < 0 ? -0.5 : 0.5));
  }
  return std::ldexp(1.0, exponent - bits);
}

// How many of the next vectors to multiply at once. A batch, full or not, costs about as much as
// kFew vectors one by one (AVX2, k = 5).
template <class Index>
size_t vectors_at_once(const PermutedIndex<Index>& a, bool plus_plus, size_t left) {
  constexpr size_t kFew = 7;
  return a.reduce && plus_plus && left >= kFew ? std::min(left, kBatch) : 1;
}

// Multiplies `count` vectors of integers. to_integers(v, x, stride) writes vector v to x (in), and
// from_integers(v, y, stride) reads its product from y (out); entries are `stride` apart.
template <class Index, class ToIntegers, class FromIntegers>
void multiply_integers(const PermutedIndex<Index>& a, bool plus_plus, size_t count,
                       const ToIntegers& to_integers, const FromIntegers& from_integers) {
  std::vector<int32_t> x, y;
  for (size_t done = 0, n; done < count; done += n) {
    n = vectors_at_once(a, plus_plus, count - done);
    const size_t stride = n == 1 ? 1 : kBatch;
    x.assign(a.in() * stride, 0);
    y.resize(a.out() * stride);
    for (size_t v = 0; v < n; v++) to_integers(done + v, x.data() + v, stride);
    n == 1 ? multiply(a, plus_plus, x.data(), y.data()) : reduce_batch(a, x.data(), y.data());
    for (size_t v = 0; v < n; v++) from_integers(done + v, y.data() + v, stride);
  }
}

}  // namespace

template <class Index>
void multiply_i8(const PermutedIndex<Index>& a, bool plus_plus, const int8_t* x, size_t count,
                 int32_t* y) {
  multiply_integers(
      a, plus_plus, count,
      [&](size_t v, int32_t* to, size_t stride) {
        for (size_t i = 0; i < a.in(); i++) to[i * stride] = x[v * a.in() + i];
      },
      [&](size_t v, const int32_t* from, size_t stride) {
        for (size_t r = 0; r < a.out(); r++) y[v * a.out() + r] = from[r * stride];
      });
}

template <class Index>
void multiply_f32(const PermutedIndex<Index>& a, bool plus_plus, const float* x, size_t count,
                  float* y) {
  std::vector<double> units(count);  // of the integers; 0: x is not finite
  const int bits = kBits + 1 - a.largest_digit;
  multiply_integers(
      a, plus_plus, count,
      [&](size_t v, int32_t* to, size_t stride) {
        const float* from = x + v * a.in();
        const double sum = sum_of_magnitudes(from, a.in());
        if (std::isfinite(sum)) units[v] = to_fixed_point(from, a.in(), sum, bits, to, stride);
      },
      [&](size_t v, const int32_t* from, size_t stride) {
        float* to = y + v * a.out();
        if (units[v] == 0) multiply(a, plus_plus, x + v * a.in(), to);
        for (size_t r = 0; r < a.out(); r++) {
          if (units[v] != 0) to[r] = static_cast<float>(from[r * stride] * units[v]);
          to[r] *= a.scale[r / a.scale_rows];
        }
      });
}

template void multiply_i8(const PermutedIndex<uint16_t>&, bool, const int8_t*, size_t, int32_t*);
template void multiply_i8(const PermutedIndex<uint32_t>&, bool, const int8_t*, size_t, int32_t*);
template void multiply_f32(const PermutedIndex<uint16_t>&, bool, const float*, size_t, float*);
template void multiply_f32(const PermutedIndex<uint32_t>&, bool, const float*, size_t, float*);

}  // namespace rsr
