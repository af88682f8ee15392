// Dense products: rows of weights, as a file stores them, times one or several vectors.
//
// An instruction set defines how weights and inputs are loaded, multiplied and summed (class K). A
// block of R rows x V vectors keeps R x V accumulators in registers, so that a load serves V or R
// products. Each pair of a row and a vector has one accumulator of K::kLanes lanes, filled from
// column 0 on and summed in a fixed order: its result depends on nothing else, not even on the
// shape of its block.
//
// The rows of a block are read side by side. The next block follows in memory, so each line is
// prefetched R rows ahead: hardware prefetchers stop at the end of a 4 KiB page. A single row has
// no parallel sums, so it is slower from the caches, but it is a single stream of reads, faster
// from memory on some processors. Its lines are prefetched into L2, which can have more of them in
// flight.
//
// Per vector of weights and V = 1, besides a prefetch: float32 one vfmadd with a memory operand;
// bfloat16 vpmovzxwd, vpslld, vfmadd; float16 vcvtph2ps, vfmadd; int8 vpmovsxbw, vpmaddwd, vpaddd;
// int8 with VNNI vpxord, vpdpbusd. Except for float16 and int8 in the caches, loads are the limit.
//
// Internal linkage: each file that includes this compiles its own (table.h).
#pragma once
#include <cstddef>
#include <type_traits>

#include "prefetch.h"
#include "table.h"

namespace rsr {
namespace {

template <class K, int R, int V>
void multiply_block(const DenseRows<typename K::Input>& p, size_t row, size_t vector,
                    const typename K::Sum* start) {
  using Input = typename K::Input;
  const size_t n = p.columns, row_bytes = n * K::kWeightBytes;
  const char* w = static_cast<const char*>(p.weights) + row * row_bytes;
  const Input* x = p.x + vector * n;
  typename K::Sum sums[R][V];
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) sums[r][v] = start[v];
  // Adds K::kLanes columns, or the last `count`, from column j on.
  const auto add = [&](size_t j, auto count) {
    decltype(K::weights(w, 0)) weights[R];
    for (int r = 0; r < R; r++) {
      if constexpr (R == 1)
        prefetch_into_l2(w + K::kPrefetchBytes);
      else
        prefetch_line(w + (R + r) * row_bytes);
      weights[r] = K::weights(w + r * row_bytes, count);
    }
    for (int v = 0; v < V; v++) {
      const auto inputs = K::inputs(x + v * n + j, count);
      for (int r = 0; r < R; r++) sums[r][v] = K::add(sums[r][v], weights[r], inputs);
    }
  };
  size_t j = 0;
  for (; j + K::kLanes <= n; j += K::kLanes, w += K::kLanes * K::kWeightBytes)
    add(j, std::integral_constant<size_t, K::kLanes>());
  if (j < n) add(j, n - j);
  for (int v = 0; v < V; v++)
    for (int r = 0; r < R; r++)
      p.y[(vector + v) * p.stride + row + r] =
          K::apply_scale(K::total(sums[r][v]), p, row + r, vector + v);
}

// All rows times V vectors, from `vector` on.
template <class K, int V>
void multiply_vectors(const DenseRows<typename K::Input>& p, size_t vector) {
  constexpr int kRows = V == 1 ? K::kRowsAlone : K::kRows;
  // A single row must keep up with memory: each addition to its sum waits four cycles for the last.
  constexpr bool keeps_up =
      K::kLanes * K::kWeightBytes >= (std::is_integral_v<typename K::Input> ? 16 : 32);
  typename K::Sum start[V];
  for (int v = 0; v < V; v++) start[v] = K::start(p.x + (vector + v) * p.columns, p.columns);
  size_t r = 0;
  if (!p.in_order || !keeps_up)
    for (; r + kRows <= p.rows; r += kRows) multiply_block<K, kRows, V>(p, r, vector, start);
  for (; r < p.rows; r++) multiply_block<K, 1, V>(p, r, vector, start);
}

template <class K, int V = K::kVectors>
void multiply_set(const DenseRows<typename K::Input>& p, size_t vector, size_t width) {
  if constexpr (V > 1)
    if (width < V) return multiply_set<K, V - 1>(p, vector, width);
  multiply_vectors<K, V>(p, vector);
}

// Divides the vectors into sets of at most K::kVectors, as evenly as possible.
template <class K>
void multiply_dense_rows(const DenseRows<typename K::Input>& p) {
  const size_t sets = (p.count + K::kVectors - 1) / K::kVectors;
  for (size_t i = 0; i < sets; i++) {
    const size_t begin = i * p.count / sets, end = (i + 1) * p.count / sets;
    multiply_set<K>(p, begin, end - begin);
  }
}

// Base classes. A stream: rows that are read one after the other.
struct Stream {
  static constexpr size_t kPrefetchBytes = 8192;  // ahead
};

// float32 sums are written as they are, int8 sums are scaled.
struct FloatSums : Stream {
  using Input = float;
  static float apply_scale(float sum, const DenseRows<float>&, size_t, size_t) { return sum; }
};

struct QuantizedSums : Stream {
  using Input = int8_t;
  static constexpr size_t kWeightBytes = 1;
  static float apply_scale(int32_t sum, const DenseRows<int8_t>& p, size_t row, size_t vector) {
    return static_cast<float>(sum) * p.scale[row] / p.divisors[vector];
  }
};

template <class F32, class BF16, class F16, class I8>
constexpr DenseKernels kDense = {multiply_dense_rows<F32>, multiply_dense_rows<BF16>,
                                 multiply_dense_rows<F16>, multiply_dense_rows<I8>};

}  // namespace
}  // namespace rsr
