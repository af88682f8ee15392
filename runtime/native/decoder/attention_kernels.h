// Attention of queries that share a key head, over a chunk of positions, in kLanes lanes. Included
// by decoder_<isa>.cpp after its Lanes.
//
// The order of operations of a query does not depend on other queries: a dot product runs over the
// dimensions, with one lane per position; a sum of values runs over the positions. Tiles of several
// queries x several vectors only share loads.
//
// Per dimension (scores) or position (values), a tile of 6 queries x 4 vectors on AVX-512 is 24
// vfmadd231ps, 6 vbroadcastss and 4 loads or, from float16, 4 vcvtph2ps: 384 multiply-adds in 12
// cycles on Sapphire Rapids. A single query is 4 vfmadd231ps per 4 loads: memory is the limit.
#pragma once
#include "decoder/row_kernels.h"

// Not inlined: a tile needs more registers than its callers leave. Unrolled explicitly: GCC keeps
// arrays of Lanes in registers only if it unrolls the loops over them early.
#if defined(_MSC_VER)
#define RSR_TILE __declspec(noinline)
#define RSR_UNROLL
#elif defined(__clang__)
#define RSR_TILE __attribute__((noinline))
#define RSR_UNROLL _Pragma("unroll")
#else
#define RSR_TILE __attribute__((noinline))
#define RSR_UNROLL _Pragma("GCC unroll 8")
#endif

namespace rsr {
namespace {

constexpr size_t kTileQueries = 6;
constexpr size_t kPanelPositions = 64;  // their keys, or half of their values, stay in the L1 cache
constexpr size_t kPrefetchBytes = 24576;  // ahead, in a stream of keys or values
constexpr size_t kManyQueries = 16;       // from so many on, float16 is converted once

inline void prefetch_ahead(const void* p) {
  prefetch(static_cast<const char*>(p) + kPrefetchBytes);
}

// scores (R rows of kChunkPositions) = q . keys, for V blocks of positions. Prefetches their
// values, which are read next.
template <int R, int V, bool kStream, class Cell>
RSR_TILE void score_tile(const float* const* queries, const Cell* keys, size_t d,
                         const Cell* values, float* scores) {
  Lanes sums[R][V];
  RSR_UNROLL
  for (int r = 0; r < R; r++) {
    RSR_UNROLL
    for (int v = 0; v < V; v++) sums[r][v] = broadcast(0.0f);
  }
  for (size_t c = 0; c < d; c++) {
    Lanes k[V];
    RSR_UNROLL
    for (int v = 0; v < V; v++) {
      const Cell* block = keys + (v * d + c) * kLanes;
      if (kStream) {
        prefetch_ahead(block);
        prefetch(reinterpret_cast<const char*>(values + (v * d + c) * kLanes));
      }
      k[v] = load(block);
    }
    RSR_UNROLL
    for (int r = 0; r < R; r++) {
      const Lanes q = broadcast(queries[r][c]);
      RSR_UNROLL
      for (int v = 0; v < V; v++) sums[r][v] = fma(q, k[v], sums[r][v]);
    }
  }
  RSR_UNROLL
  for (int r = 0; r < R; r++) {
    RSR_UNROLL
    for (int v = 0; v < V; v++) store(scores + r * kChunkPositions + v * kLanes, sums[r][v]);
  }
}

// sums (R rows of dv) += weights (R rows of kChunkPositions) . values, for positions [first, last)
// and V vectors of a value.
template <int R, int V, bool kStream, class Cell>
RSR_TILE void mix_tile(const float* weights, const Cell* values, size_t dv, size_t first,
                       size_t last, float* sums) {
  Lanes s[R][V];
  RSR_UNROLL
  for (int r = 0; r < R; r++) {
    RSR_UNROLL
    for (int v = 0; v < V; v++) s[r][v] = load(sums + r * dv + v * kLanes);
  }
  for (size_t p = first; p < last; p++) {
    Lanes x[V];
    RSR_UNROLL
    for (int v = 0; v < V; v++) {
      const Cell* value = values + p * dv + v * kLanes;
      if (kStream) prefetch_ahead(value);
      x[v] = load(value);
    }
    RSR_UNROLL
    for (int r = 0; r < R; r++) {
      const Lanes w = broadcast(weights[r * kChunkPositions + p]);
      RSR_UNROLL
      for (int v = 0; v < V; v++) s[r][v] = fma(w, x[v], s[r][v]);
    }
  }
  RSR_UNROLL
  for (int r = 0; r < R; r++) {
    RSR_UNROLL
    for (int v = 0; v < V; v++) store(sums + r * dv + v * kLanes, s[r][v]);
  }
}

// Calls body with constants: by_vectors with (first, count) for fours, twos and ones of vectors, as
// far as registers allow; with_queries with the count of queries of a tile.
template <int N>
using Constant = std::integral_constant<int, N>;

template <class Body>
inline void by_vectors(size_t count, const Body& body) {
  size_t i = 0;
  if constexpr (kTileVectors >= 4)
    for (; i + 4 <= count; i += 4) body(i, Constant<4>{});
  if constexpr (kTileVectors >= 2)
    for (; i + 2 <= count; i += 2) body(i, Constant<2>{});
  for (; i < count; i++) body(i, Constant<1>{});
}

template <class Body>
inline void with_queries(size_t count, const Body& body) {
  switch (count) {
    case 6:
      return body(Constant<6>{});
    case 4:
      return body(Constant<4>{});
    case 2:
      return body(Constant<2>{});
    default:
      return body(Constant<1>{});
  }
}

constexpr float kUnseen = -std::numeric_limits<float>::infinity();  // a score

// kStream: few queries, so memory is the limit. kScaled: keys and values have scales.
template <class Cell, bool kStream, bool kScaled>
class ChunkAttention {
 public:
  ChunkAttention(const AttentionChunk& chunk, const Cell* keys, const Cell* values, float* scores)
      : chunk_(chunk), keys_(keys), values_(values), scores_(scores), dv_(whole_lanes(chunk.d)) {}

  void run() const {
    const size_t least = hidden(0) / kPanelPositions * kPanelPositions;
    const size_t most = visible(queries() - 1);
    for (size_t p = least; p < most; p += kPanelPositions)
      for_each_tile([&](size_t j, size_t count) { score(j, count, p); });
    size_t j = 0;
    for (; j + kSoftmaxes <= queries(); j += kSoftmaxes) weigh<kSoftmaxes>(j);
    for (; j < queries(); j++) weigh<1>(j);
    std::memset(chunk_.sums, 0, queries() * dv_ * sizeof(float));
    for (size_t p = least; p < most; p += kPanelPositions)
      by_vectors(dv_ / kLanes, [&](size_t v, auto vectors) {
        for_each_tile([&](size_t j, size_t count) {
          mix<decltype(vectors)::value>(j, count, p, v * kLanes);
        });
      });
  }

 private:
  static constexpr int kSoftmaxes = kTileVectors >= 4 ? 4 : 2;  // at once, as registers allow

  size_t queries() const { return chunk_.rows * chunk_.heads; }

  // Query j sees positions [hidden(j), visible(j)); both grow with j.
  size_t hidden(size_t j) const {
    const size_t before = chunk_.visible + j / chunk_.heads;
    return before > chunk_.window ? before - chunk_.window : 0;
  }
  size_t visible(size_t j) const { return min(chunk_.visible + j / chunk_.heads, kChunkPositions); }

  const float* query(size_t j) const {
    return chunk_.queries + j / chunk_.heads * chunk_.row_stride + j % chunk_.heads * chunk_.d;
  }

  // Tiles of 6, 4, 2 and 1 queries.
  template <class Body>
  void for_each_tile(const Body& body) const {
    for (size_t j = 0; j < queries();) {
      const size_t left = queries() - j, count = left >= 6 ? 6 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
      body(j, count);
      j += count;
    }
  }

  void score(size_t j, size_t count, size_t panel) const {
    const size_t most = visible(j + count - 1);
    if (most <= panel || hidden(j) >= panel + kPanelPositions) return;
    const float* rows[kTileQueries];
    for (size_t r = 0; r < count; r++) rows[r] = query(j + r);
    const size_t left = most - panel;
    const size_t blocks = whole_lanes(min(left, kPanelPositions)) / kLanes;
    by_vectors(blocks, [&](size_t v, auto vectors) {
      const size_t p = panel + v * kLanes;
      with_queries(count, [&](auto tile) {
        score_tile<decltype(tile)::value, decltype(vectors)::value, kStream>(
            rows, keys_ + p * chunk_.d, chunk_.d, values_ + p * dv_,
            scores_ + j * kChunkPositions + p);
      });
    });
  }

  // The scores from position p on of a query that sees [begin, end).
  Lanes seen(const float* scores, size_t begin, size_t end, size_t p) const {
    Lanes x = load(scores + p);
    if constexpr (kScaled) x = mul(x, load(chunk_.key_scales + p));
    if (begin <= p && p + kLanes <= end) return x;
    float all[kLanes];
    store(all, x);
    for (size_t i = 0; i < kLanes; i++)
      if (p + i < begin || p + i >= end) all[i] = kUnseen;
    return load(all);
  }

  // Scores of R queries become exp(score - maximum), times the scale of the value. Side by side,
  // because each waits for its maximum. The maximum is finite: where all scores are -inf, the
  // weights are zero.
  template <int R>
  void weigh(size_t j) const {
    float* scores = scores_ + j * kChunkPositions;
    size_t from[R], until[R];
    Lanes most[R], total[R];
    for (int r = 0; r < R; r++) {
      from[r] = hidden(j + r);
      until[r] = visible(j + r);
      most[r] = broadcast(std::numeric_limits<float>::lowest());
      total[r] = broadcast(0.0f);
    }
    const auto seen_by = [&](int r, size_t p) {
      return seen(scores + r * kChunkPositions, from[r], until[r], p);
    };
    const size_t begin = from[0] / kLanes * kLanes, end = until[R - 1];
    for (size_t p = begin; p < end; p += kLanes)
      for (int r = 0; r < R; r++) most[r] = max(seen_by(r, p), most[r]);
    for (int r = 0; r < R; r++) {
      const float maximum = largest(most[r]);
      chunk_.statistics[(j + r) * kStatistics + kMaximum] = maximum;
      most[r] = broadcast(maximum);
    }
    for (size_t p = begin; p < end; p += kLanes)
      for (int r = 0; r < R; r++) {
        const Lanes weight = exp_of_negative(sub(seen_by(r, p), most[r]));
        total[r] = add(total[r], weight);
        store(scores + r * kChunkPositions + p,
              kScaled ? mul(weight, load(chunk_.value_scales + p)) : weight);
      }
    for (int r = 0; r < R; r++) chunk_.statistics[(j + r) * kStatistics + kTotal] = sum(total[r]);
  }

  // The positions that all queries of the tile see, and, query by query, those before and after. A
  // position that a query does not see is not multiplied, not even by 0: it may hold NaN.
  template <int V>
  void mix(size_t j, size_t count, size_t panel, size_t column) const {
    const size_t end = panel + kPanelPositions;
    const size_t first = hidden(j + count - 1) > panel ? hidden(j + count - 1) : panel;
    const size_t last = min(visible(j), end);
    const bool is_shared = first < last;
    for (size_t r = j; r < j + count; r++)
      mix_one<V>(r, hidden(r) > panel ? hidden(r) : panel, is_shared ? first : min(visible(r), end),
                 column);
    if (!is_shared) return;
    with_queries(count,
                 [&](auto tile) { mix_some<decltype(tile)::value, V>(j, first, last, column); });
    for (size_t r = j; r < j + count; r++) mix_one<V>(r, last, min(visible(r), end), column);
  }

  template <int V>
  void mix_one(size_t j, size_t first, size_t last, size_t column) const {
    if (first < last) mix_some<1, V>(j, first, last, column);
  }

  template <int R, int V>
  void mix_some(size_t j, size_t first, size_t last, size_t column) const {
    mix_tile<R, V, kStream>(scores_ + j * kChunkPositions, values_ + column, dv_, first, last,
                            chunk_.sums + j * dv_ + column);
  }

  const AttentionChunk& chunk_;
  const Cell* keys_;
  const Cell* values_;
  float* scores_;
  size_t dv_;
};

template <class Cell>
inline void convert(const Cell* from, size_t n, float* to) {
  for (size_t i = 0; i < n; i += kLanes) store(to + i, load(from + i));
}

template <class Cell>
constexpr bool kIsFloat = std::is_same_v<Cell, float>;

template <class Cell>
size_t scratch_bytes(size_t queries, size_t d) {
  const bool is_converted = !kIsFloat<Cell> && queries >= kManyQueries;
  return sizeof(float) * kChunkPositions * (queries + (is_converted ? d + whole_lanes(d) : 0));
}

template <class Cell>
void attend(const AttentionChunk& chunk) {
  constexpr bool kScaled = std::is_same_v<Cell, int8_t>;
  const size_t queries = chunk.rows * chunk.heads, dv = whole_lanes(chunk.d);
  const auto* keys = static_cast<const Cell*>(chunk.keys);
  const auto* values = static_cast<const Cell*>(chunk.values);
  float* scores = static_cast<float*>(chunk.scratch);
  if (queries < kManyQueries) {
    ChunkAttention<Cell, true, kScaled>(chunk, keys, values, scores).run();
  } else if constexpr (kIsFloat<Cell>) {
    ChunkAttention<float, false, false>(chunk, keys, values, scores).run();
  } else {
    const size_t positions = min(chunk.visible + chunk.rows - 1, kChunkPositions);
    float* k = scores + queries * kChunkPositions;
    float* v = k + kChunkPositions * chunk.d;
    convert(keys, whole_lanes(positions) * chunk.d, k);
    convert(values, positions * dv, v);
    ChunkAttention<float, false, kScaled>(chunk, k, v, scores).run();
  }
}

template <class Cell>
void store_position(const float* k, const float* v, size_t d, const CachePosition& to) {
  auto* block = static_cast<Cell*>(to.key);
  auto* value = static_cast<Cell*>(to.value);
  for_each_vector(d, [&](size_t i, auto vector) {
    Cell key[kLanes];
    store(key, vector.load(k + i));
    const size_t n = min(d - i, kLanes);
    for (size_t c = 0; c < n; c++) block[(i + c) * kLanes] = key[c];
    store(value + i, vector.load(v + i));
  });
}

// Returns the scale of x (n). put(offset, cells) receives x / scale.
template <class Put>
inline float quantize(const float* x, size_t n, const Put& put) {
  Magnitudes magnitudes = no_magnitudes();
  for_each_vector(
      n, [&](size_t i, auto vector) { magnitudes = larger(magnitudes, vector.load(x + i)); });
  const float most = largest(magnitudes);
  const bool is_finite = most <= std::numeric_limits<float>::max();
  const bool is_zero = !is_finite || most < 1e-30f;
  const Lanes by = broadcast(is_zero ? 0.0f : 127.0f / most);
  for_each_vector(n, [&](size_t i, auto vector) {
    int8_t cells[kLanes] = {};
    if (!is_zero) store_i8(cells, mul(vector.load(x + i), by));
    put(i, cells);
  });
  return !is_finite ? std::numeric_limits<float>::quiet_NaN() : is_zero ? 0.0f : most / 127.0f;
}

template <>
void store_position<int8_t>(const float* k, const float* v, size_t d, const CachePosition& to) {
  int8_t* block = static_cast<int8_t*>(to.key);
  int8_t* value = static_cast<int8_t*>(to.value);
  *to.key_scale = quantize(k, d, [&](size_t i, const int8_t* cells) {
    const size_t n = min(d - i, kLanes);
    for (size_t c = 0; c < n; c++) block[(i + c) * kLanes] = cells[c];
  });
  *to.value_scale =
      quantize(v, d, [&](size_t i, const int8_t* cells) { std::memcpy(value + i, cells, kLanes); });
}

template <class Cell>
constexpr CacheKernels kCache = {store_position<Cell>, scratch_bytes<Cell>, attend<Cell>, 128};

inline float exp_of_negative(float x) {
  float e[kLanes];
  store(e, exp_of_negative(broadcast(x)));
  return e[0];
}

void combine(size_t queries, size_t dv, const float* sums, const float* statistics, float* all_sums,
             float* all_statistics) {
  for (size_t j = 0; j < queries; j++) {
    const float* here = statistics + j * kStatistics;
    float* all = all_statistics + j * kStatistics;
    const float beyond = here[kMaximum] - all[kMaximum];
    const float factor = beyond > 0 ? 1.0f : exp_of_negative(beyond);
    const float factor_of_all = beyond > 0 ? exp_of_negative(-beyond) : 1.0f;
    if (beyond > 0) all[kMaximum] = here[kMaximum];
    all[kTotal] = all[kTotal] * factor_of_all + here[kTotal] * factor;
    const Lanes f = broadcast(factor), f_of_all = broadcast(factor_of_all);
    for (size_t c = 0; c < dv; c += kLanes) {
      float* to = all_sums + j * dv + c;
      store(to, fma(load(sums + j * dv + c), f, mul(load(to), f_of_all)));
    }
  }
}

void divide(size_t queries, size_t d, const float* sums, const float* statistics, float* out) {
  const size_t dv = whole_lanes(d);
  for (size_t j = 0; j < queries; j++) {
    const Lanes by = broadcast(1.0f / statistics[j * kStatistics + kTotal]);
    const Lanes zero = broadcast(0.0f);  // -0 + 0 = 0
    for_each_vector(d, [&](size_t i, auto vector) {
      vector.store(out + j * d + i, fma(vector.load(sums + j * dv + i), by, zero));
    });
  }
}

constexpr DecoderKernels kDecoder = {normalize,        gate_row,       rotate,  kCache<float>,
                                     kCache<uint16_t>, kCache<int8_t>, combine, divide};

}  // namespace
}  // namespace rsr
