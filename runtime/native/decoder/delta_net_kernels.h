// Kernels of a gated delta net in kLanes lanes. Included by decoder_<isa>.cpp after
// attention_kernels.h, whose tiles of vectors they share.
//
// A tile of the state, four vectors of columns x dk, is 32 KiB with dk = 128: it stays in the L1
// cache while all rows of a prompt pass through it, and a row is bound by arithmetic. For each of
// the dk rows of the tile: 8 vfmadd231ps, 4 vmulps and 4 vfmadd213ps for 11 loads and 4 stores on
// AVX-512, 8 cycles on Sapphire Rapids. A form in chunks (arXiv 2406.06484) has no fewer
// multiplications, only fewer loads. A single row is bound by reading the state once and writing
// it once.
#pragma once
#include "decoder/attention_kernels.h"

namespace rsr {
namespace {

constexpr float kNormEps = 1e-6f;  // of the L2 norm of queries and keys

void convolve(const ConvolvedChannels& of, float scale, float* out) {
  SumOfSquares squares;
  for_each_vector(of.n, [&](size_t i, auto vector) {
    Lanes sum = mul(vector.load(of.weights + i), vector.load(of.rows[0] + i));
    for (size_t t = 1; t < of.taps; t++)
      sum = fma(vector.load(of.weights + t * of.stride + i), vector.load(of.rows[t] + i), sum);
    const Lanes x = silu(sum);
    vector.store(out + i, x);
    squares.add_vector(i / kLanes, x);
  });
  if (scale == 0.0f) return;
  const Lanes by = broadcast(scale / std::sqrt(squares.total() + kNormEps));
  for_each_vector(
      of.n, [&](size_t i, auto vector) { vector.store(out + i, mul(vector.load(out + i), by)); });
}

inline float dot(const float* x, const float* y, size_t n) {
  Lanes s = broadcast(0.0f);
  for_each_vector(
      n, [&](size_t i, auto vector) { s = fma(vector.load(x + i), vector.load(y + i), s); });
  return sum(s);
}

// `n` of the floats from p on, the rest zero, as V vectors.
template <int V>
inline void load_columns(const float* p, size_t n, Lanes* to) {
  RSR_UNROLL
  for (int v = 0; v < V; v++) {
    const size_t begin = v * kLanes;
    to[v] = begin + kLanes <= n ? load(p + begin) : load_part(p + begin, n - begin);
  }
}

template <int V>
inline void store_columns(float* p, const Lanes* from, size_t n) {
  RSR_UNROLL
  for (int v = 0; v < V; v++) {
    const size_t begin = v * kLanes;
    begin + kLanes <= n ? store(p + begin, from[v]) : store_part(p + begin, from[v], n - begin);
  }
}

// With a = S^T k and b = S^T q of the state before the row, e = rate (v - decay a) and
// out = decay b + (k . q) e: S is read for both at once, and then updated.
template <int V>
RSR_TILE void update_tile(float* state, const DeltaRows& of, size_t column, size_t n) {
  const size_t stride = of.dk * kLanes;
  for (size_t row = 0; row < of.rows; row++) {
    const float *q = of.q + row * of.stride, *k = of.k + row * of.stride;
    Lanes a[V], b[V];
    RSR_UNROLL
    for (int v = 0; v < V; v++) a[v] = b[v] = broadcast(0.0f);
    for (size_t i = 0; i < of.dk; i++) {
      const Lanes key = broadcast(k[i]), query = broadcast(q[i]);
      RSR_UNROLL
      for (int v = 0; v < V; v++) {
        const Lanes s = load(state + v * stride + i * kLanes);
        a[v] = fma(s, key, a[v]);
        b[v] = fma(s, query, b[v]);
      }
    }
    const Lanes decay = broadcast(of.decay[row * of.gate_stride]);
    const Lanes rate = broadcast(of.rate[row * of.gate_stride]);
    const Lanes both = broadcast(dot(k, q, of.dk));
    Lanes e[V];
    load_columns<V>(of.v + row * of.stride + column, n, e);
    RSR_UNROLL
    for (int v = 0; v < V; v++) {
      e[v] = mul(rate, sub(e[v], mul(decay, a[v])));
      b[v] = fma(both, e[v], mul(decay, b[v]));
    }
    store_columns<V>(of.out + row * of.out_stride + column, b, n);
    for (size_t i = 0; i < of.dk; i++) {
      const Lanes key = broadcast(k[i]);
      RSR_UNROLL
      for (int v = 0; v < V; v++) {
        float* s = state + v * stride + i * kLanes;
        store(s, fma(key, e[v], mul(decay, load(s))));
      }
    }
  }
}

void update(const DeltaRows& of) {
  by_vectors(whole_lanes(of.columns) / kLanes, [&](size_t i, auto vectors) {
    constexpr int kVectors = decltype(vectors)::value;
    const size_t column = i * kLanes;
    update_tile<kVectors>(of.state + column * of.dk, of, column,
                          min(of.columns - column, kVectors * kLanes));
  });
}

void norm_gated(const float* x, const float* z, size_t d, const float* weight, float eps, float* h,
                const RowOutput& to) {
  for (size_t head = 0; head < to.n; head += d) {
    SumOfSquares squares;
    for_each_vector(d, [&](size_t i, auto vector) {
      squares.add_vector(i / kLanes, vector.load(x + head + i));
    });
    const Lanes inverse = broadcast(inverse_rms(squares.total(), d, eps));
    for_each_vector(d, [&](size_t i, auto vector) {
      const Lanes normed = mul(mul(vector.load(x + head + i), inverse), vector.load(weight + i));
      vector.store(h + head + i, mul(normed, silu(vector.load(z + head + i))));
    });
  }
  write_row(to, [=](size_t i, auto vector) { return vector.load(h + i); });
}

constexpr DeltaNetKernels kDeltaNet = {convolve, update, norm_gated};

}  // namespace
}  // namespace rsr
