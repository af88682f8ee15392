// The second half of a low-rank product, in kLanes lanes. Included by decoder_<isa>.cpp after
// attention_kernels.h, whose tiles of vectors it shares.
//
// B is a stream: of each tile of kLanes rows one column after the other. For one vector of t, which
// the L1 cache holds, a column of four tiles takes one broadcast and four vfmadd231ps with a memory
// operand, so reading B is the limit: tiles are prefetched. Numbers of 16 bits take a
// vpmovzxwd and a vpslld (bfloat16) or a vcvtph2ps (float16) besides, and half the reading. With
// more vectors a tile stays in the L1 cache, and its loads are the limit.
#pragma once
#include "decoder/attention_kernels.h"

namespace rsr {
namespace {

constexpr size_t kPrefetchLowRank = 8192;  // bytes ahead in B

template <class Cell, int V>
RSR_TILE void add_low_rank_tile(const LowRankRows& p, const Cell* b, size_t row, size_t rows) {
  const size_t bytes = V * p.rank * kLanes * sizeof(Cell);
  for (size_t i = 0; i < bytes; i += 64)
    prefetch(reinterpret_cast<const char*>(b) + kPrefetchLowRank + i);
  const Lanes scale = broadcast(p.scale);
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
        store(y + first, fma(scale, sums[v], load(y + first)));
      else
        store_part(y + first, fma(scale, sums[v], load_part(y + first, n)), n);
    }
  }
}

template <class Cell>
void add_low_rank(const LowRankRows& p) {
  const Cell* b = static_cast<const Cell*>(p.b);
  by_vectors(divide_up(p.rows, kLanes), [&](size_t tile, auto vectors) {
    const size_t row = tile * kLanes;
    add_low_rank_tile<Cell, decltype(vectors)::value>(p, b + row * p.rank, row, p.rows - row);
  });
}

constexpr LowRankKernels kLowRank = {add_low_rank<float>, add_low_rank<BFloat16>,
                                     add_low_rank<uint16_t>};

}  // namespace
}  // namespace rsr
