// The second half of a low-rank product, in kLanes lanes. Included by decoder_<isa>.cpp after
// attention_kernels.h, whose tiles of vectors it shares.
//
// B is a stream: of each tile of kLanes rows one column after the other. For one vector of t, which
// the L1 cache holds, a column of four tiles takes one broadcast and four vfmadd231ps with a memory
// operand, so reading B is the limit: the next tiles are prefetched. With more vectors a tile stays
// in the L1 cache, and its loads are: two a cycle.
#pragma once
#include "decoder/attention_kernels.h"

namespace rsr {
namespace {

template <int V>
RSR_TILE void add_low_rank_tile(const LowRankRows& p, const float* b, size_t row, size_t rows) {
  for (size_t j = 0; j < V * p.rank; j++)
    prefetch(reinterpret_cast<const char*>(b + (V * p.rank + j) * kLanes));
  for (size_t i = 0; i < p.count; i++) {
    const float* t = p.t + i * p.rank;
    float* y = p.y + i * p.stride + row;
    Lanes sums[V];
    RSR_UNROLL
    for (int v = 0; v < V; v++) sums[v] = broadcast(0.0f);
    for (size_t j = 0; j < p.rank; j++) {
      const Lanes by = broadcast(t[j]);
      RSR_UNROLL
      for (int v = 0; v < V; v++) sums[v] = fma(by, load(b + (v * p.rank + j) * kLanes), sums[v]);
    }
    RSR_UNROLL
    for (int v = 0; v < V; v++) {
      const size_t first = v * kLanes, n = rows - first;
      if (n >= kLanes)
        store(y + first, add(load(y + first), sums[v]));
      else
        store_part(y + first, add(load_part(y + first, n), sums[v]), n);
    }
  }
}

void add_low_rank(const LowRankRows& p) {
  by_vectors(divide_up(p.rows, kLanes), [&](size_t tile, auto vectors) {
    const size_t row = tile * kLanes;
    add_low_rank_tile<decltype(vectors)::value>(p, p.b + row * p.rank, row, p.rows - row);
  });
}

}  // namespace
}  // namespace rsr
