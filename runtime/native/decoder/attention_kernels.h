// Attention of queries that share a key head, over a chunk of positions, in kLanes lanes. Included
// by decoder_<isa>.cpp after its Lanes.
//
// The order of operations of a query does not depend on other queries: a dot product runs over the
// dimensions, with one lane per position; a sum of values runs over the positions. Tiles of several
// queries x several vectors only share loads. Many queries convert and pack keys and values once.
//
// Per dimension (scores) or position (values), a tile of 6 queries x 4 vectors on AVX-512 is 24
// vfmadd231ps, 6 vbroadcastss and 4 loads or, from float16, 4 vcvtph2ps: 384 multiply-adds in 12
// cycles on Sapphire Rapids. A single query is 4 vfmadd231ps per 4 loads: memory is the limit.
#pragma once
#include "decoder/row_kernels.h"

// Not inlined: a tile needs more registers than its callers leave. Unrolled explicitly: GCC keeps
// arrays of Lanes in registers only if it unrolls the loops over them early.
#if defined(__clang__)
#define RSR_TILE __attribute__((noinline))
#define RSR_UNROLL _Pragma("unroll")
#elif defined(_MSC_VER)
#define RSR_TILE __declspec(noinline)
#define RSR_UNROLL
#else
#define RSR_TILE __attribute__((noinline))
#define RSR_UNROLL _Pragma("GCC unroll 8")
#endif

namespace rsr {
namespace {

constexpr size_t kTileQueries = 6;
constexpr size_t kPanelPositions = 64;  // their keys, or half of their values, stay in the L1 cache
constexpr size_t kManyQueries = 16;     // from so many on, float16 is converted once

// What a tile prefetches. The address advances by `step` bytes for each vector of a stream,
// otherwise for each dimension.
struct Ahead {
  const char* next;
  size_t step;
};

// scores (R rows of kChunkPositions) = q . keys, for V blocks of positions, times their scales
// unless these are null; keys of a stream are blocks of the cache, otherwise of a panel of
// pack_keys.
template <int R, int V, bool kStream, class Cell>
RSR_TILE void score_tile(const float* const* queries, const Cell* keys, const float* scales,
                         size_t d, Ahead ahead, float* scores) {
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
      const Cell* block =
          keys + (kStream ? (v * d + c) * kLanes : c * kPanelPositions + v * kLanes);
      if (kStream) prefetch(ahead.next + (v * d + c) * ahead.step);
      k[v] = load(block);
    }
    if (!kStream) prefetch(ahead.next + c * ahead.step);
    RSR_UNROLL
    for (int r = 0; r < R; r++) {
      const Lanes q = broadcast(queries[r][c]);
      RSR_UNROLL
      for (int v = 0; v < V; v++) sums[r][v] = fma(q, k[v], sums[r][v]);
    }
  }
  if (scales) {
    RSR_UNROLL
    for (int r = 0; r < R; r++) {
      RSR_UNROLL
      for (int v = 0; v < V; v++) sums[r][v] = mul(sums[r][v], load(scales + v * kLanes));
    }
  }
  RSR_UNROLL
  for (int r = 0; r < R; r++) {
    RSR_UNROLL
    for (int v = 0; v < V; v++) store(scores + r * kChunkPositions + v * kLanes, sums[r][v]);
  }
}

// Sums of values, one row of `stride` floats for each query.
struct Mixed {
  float* sums;
  size_t stride;
  bool continues;        // adds to `sums`
  const float* factors;  // of each query: sums = sum * factors[0] + sums * factors[1]; or null
};

inline Lanes mixed(Lanes sum, const float* factors, const float* before) {
  return fma(sum, broadcast(factors[0]), mul(load(before), broadcast(factors[1])));
}

// The sums of weights (R rows of kChunkPositions) . values, for positions [first, last) and V
// vectors of a value; from one value to the next are `stride` cells.
template <int R, int V, bool kStream, class Cell>
RSR_TILE void mix_tile(const float* weights, const Cell* values, size_t stride, size_t first,
                       size_t last, const Cell* ahead, const Mixed& to) {
  Lanes s[R][V];
  RSR_UNROLL
  for (int r = 0; r < R; r++) {
    RSR_UNROLL
    for (int v = 0; v < V; v++) s[r][v] = broadcast(0.0f);
  }
  if (to.continues) {
    RSR_UNROLL
    for (int r = 0; r < R; r++) {
      RSR_UNROLL
      for (int v = 0; v < V; v++) s[r][v] = load(to.sums + r * to.stride + v * kLanes);
    }
  }
  for (size_t p = first; p < last; p++) {
    Lanes x[V];
    RSR_UNROLL
    for (int v = 0; v < V; v++) {
      const size_t at = p * stride + v * kLanes;
      if (kStream) prefetch(reinterpret_cast<const char*>(ahead + at));
      x[v] = load(values + at);
    }
    RSR_UNROLL
    for (int r = 0; r < R; r++) {
      const Lanes w = broadcast(weights[r * kChunkPositions + p]);
      RSR_UNROLL
      for (int v = 0; v < V; v++) s[r][v] = fma(w, x[v], s[r][v]);
    }
  }
  if (to.factors) {
    RSR_UNROLL
    for (int r = 0; r < R; r++) {
      RSR_UNROLL
      for (int v = 0; v < V; v++)
        s[r][v] =
            mixed(s[r][v], to.factors + r * kStatistics, to.sums + r * to.stride + v * kLanes);
    }
  }
  RSR_UNROLL
  for (int r = 0; r < R; r++) {
    RSR_UNROLL
    for (int v = 0; v < V; v++) store(to.sums + r * to.stride + v * kLanes, s[r][v]);
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

inline float exp_of_negative(float x) {
  float e[kLanes];
  store(e, exp_of_negative(broadcast(x)));
  return e[0];
}

// Adds the maximum and total of a chunk to those of the chunks before it; sums are then to be
// combined by `factors`: those of the chunk, and those of the chunks before it.
inline void combine_statistics(float maximum, float total, float* all, float* factors) {
  const float beyond = maximum - all[kMaximum];
  const float less = exp_of_negative(beyond > 0 ? -beyond : beyond);
  factors[0] = beyond > 0 ? 1.0f : less;
  factors[1] = beyond > 0 ? less : 1.0f;
  if (beyond > 0) all[kMaximum] = maximum;
  all[kTotal] = all[kTotal] * factors[1] + total * factors[0];
}

constexpr float kUnseen = -std::numeric_limits<float>::infinity();  // a score

// kStream: few queries, so memory is the limit. Otherwise keys and values are floats, values are
// packed by pack_values, and tiles of scores prefetch the next chunk of a cache of `Cached`.
// kScaled: keys and values have scales.
template <class Cell, bool kStream, bool kScaled, class Cached = Cell>
class ChunkAttention {
 public:
  // factors: scratch, (queries, 2).
  ChunkAttention(const AttentionChunk& chunk, const Cell* keys, const Cell* values, float* scores,
                 float* factors)
      : chunk_(chunk),
        keys_(keys),
        values_(values),
        scores_(scores),
        factors_(factors),
        dv_(whole_lanes(chunk.d)),
        next_keys_(static_cast<const Cached*>(chunk.next_keys ? chunk.next_keys : chunk.keys)),
        next_values_(
            static_cast<const Cached*>(chunk.next_values ? chunk.next_values : chunk.values)) {}

  void run() const {
    const size_t least = hidden(0) / kPanelPositions * kPanelPositions;
    const size_t most = visible(queries() - 1);
    for (size_t p = least; p < most; p += kPanelPositions)
      for_each_tile([&](size_t j, size_t count) { score(j, count, p); });
    size_t j = 0;
    for (; j + kSoftmaxes <= queries(); j += kSoftmaxes) weigh<kSoftmaxes>(j);
    for (; j < queries(); j++) weigh<1>(j);
    by_vectors(dv_ / kLanes, [&](size_t v, auto vectors) {
      for_each_tile(
          [&](size_t j, size_t count) { mix<decltype(vectors)::value>(j, count, v * kLanes); });
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
            rows, keys_ + (kStream ? p * chunk_.d : panel * chunk_.d + v * kLanes),
            kScaled ? chunk_.key_scales + p : nullptr, chunk_.d, ahead(j, panel, p),
            scores_ + j * kChunkPositions + p);
      });
    });
  }

  // A tile of a stream prefetches the keys of the same positions of the next chunk. Otherwise the
  // tiles of a panel prefetch the keys of the next chunk together, and those of the other panels
  // its values.
  Ahead ahead(size_t j, size_t panel, size_t p) const {
    if constexpr (kStream) {
      return {reinterpret_cast<const char*>(next_keys_ + p * chunk_.d), kLanes * sizeof(Cell)};
    } else {
      const bool is_first = panel == 0;
      const size_t bytes = kChunkPositions * (is_first ? chunk_.d : dv_) * sizeof(Cached);
      const size_t of_query = bytes / queries();
      return {reinterpret_cast<const char*>(is_first ? next_keys_ : next_values_) + j * of_query,
              of_query * kTileQueries / chunk_.d};
    }
  }

  // Scores become exp(score - maximum), times the scale of the value, for R queries side by side,
  // because each waits for its maximum. The maximum is finite: where all scores are -inf, the
  // weights are zero.
  template <int R>
  void weigh(size_t j) const {
    float* scores = scores_ + j * kChunkPositions;
    const size_t begin = hidden(j) / kLanes * kLanes, end = whole_lanes(visible(j + R - 1));
    for (size_t r = 0; r < R; r++) {
      float* row = scores + r * kChunkPositions;
      for (size_t p = begin; p < hidden(j + r); p++) row[p] = kUnseen;
      for (size_t p = visible(j + r); p < end; p++) row[p] = kUnseen;
    }
    Lanes most[R], total[R];
    RSR_UNROLL
    for (int r = 0; r < R; r++) {
      most[r] = broadcast(std::numeric_limits<float>::lowest());
      total[r] = broadcast(0.0f);
    }
    for (size_t p = begin; p < end; p += kLanes) {
      RSR_UNROLL
      for (int r = 0; r < R; r++) most[r] = max(load(scores + r * kChunkPositions + p), most[r]);
    }
    float maxima[R];
    RSR_UNROLL
    for (int r = 0; r < R; r++) {
      maxima[r] = largest(most[r]);
      most[r] = broadcast(maxima[r]);
    }
    for (size_t p = begin; p < end; p += kLanes) {
      RSR_UNROLL
      for (int r = 0; r < R; r++) {
        float* at = scores + r * kChunkPositions + p;
        const Lanes weight = exp_of_negative(sub(load(at), most[r]));
        total[r] = add(total[r], weight);
        store(at, kScaled ? mul(weight, load(chunk_.value_scales + p)) : weight);
      }
    }
    for (int r = 0; r < R; r++) {
      float* all = chunk_.statistics + (j + r) * kStatistics;
      if (chunk_.combines) {
        combine_statistics(maxima[r], sum(total[r]), all, factors_ + (j + r) * kStatistics);
      } else {
        all[kMaximum] = maxima[r];
        all[kTotal] = sum(total[r]);
      }
    }
  }

  // Where the values of a block of V vectors begin, and cells from one to the next.
  const Cell* block(size_t column) const {
    return values_ + column * (kStream ? 1 : kChunkPositions);
  }
  template <int V>
  size_t block_stride() const {
    return kStream ? dv_ : V * kLanes;
  }

  const float* factors(size_t j) const {
    return chunk_.combines ? factors_ + j * kStatistics : nullptr;
  }

  template <int V>
  void mix(size_t j, size_t count, size_t column) const {
    const size_t first = hidden(j + count - 1), last = visible(j);
    if (hidden(j) < first || visible(j + count - 1) > last) return mix_apart<V>(j, count, column);
    const Mixed to = {chunk_.sums + j * dv_ + column, dv_, false, factors(j)};
    with_queries(
        count, [&](auto tile) { mix_some<decltype(tile)::value, V>(j, first, last, column, to); });
  }

  // For queries that do not see the same positions: those that all of them see, and, query by
  // query, those before and after. A position that a query does not see is not multiplied, not even
  // by 0: it may hold NaN.
  template <int V>
  void mix_apart(size_t j, size_t count, size_t column) const {
    constexpr size_t kStride = V * kLanes;
    float parts[kTileQueries * kStride] = {};
    const size_t first = hidden(j + count - 1), last = visible(j);
    const bool is_shared = first < last;
    const auto mix_one = [&](size_t r, size_t begin, size_t end) {
      if (begin < end)
        mix_some<1, V>(j + r, begin, end, column, {parts + r * kStride, kStride, true, nullptr});
    };
    for (size_t r = 0; r < count; r++)
      mix_one(r, hidden(j + r), is_shared ? first : visible(j + r));
    if (is_shared) {
      with_queries(count, [&](auto tile) {
        mix_some<decltype(tile)::value, V>(j, first, last, column, {parts, kStride, true, nullptr});
      });
      for (size_t r = 0; r < count; r++) mix_one(r, last, visible(j + r));
    }
    for (size_t r = 0; r < count; r++)
      for (size_t c = 0; c < kStride; c += kLanes) {
        float* to = chunk_.sums + (j + r) * dv_ + column + c;
        const Lanes part = load(parts + r * kStride + c);
        store(to, chunk_.combines ? mixed(part, factors(j + r), to) : part);
      }
  }

  template <int R, int V>
  void mix_some(size_t j, size_t first, size_t last, size_t column, const Mixed& to) const {
    const Cell* ahead = nullptr;  // the same positions of the next chunk
    if constexpr (kStream) ahead = next_values_ + column;
    mix_tile<R, V, kStream>(scores_ + j * kChunkPositions, block(column), block_stride<V>(), first,
                            last, ahead, to);
  }

  const AttentionChunk& chunk_;
  const Cell* keys_;
  const Cell* values_;
  float* scores_;
  float* factors_;
  size_t dv_;
  const Cached* next_keys_;  // to be prefetched
  const Cached* next_values_;
};

// Keys of whole blocks panel after panel, each (d, kPanelPositions).
template <class Cell>
inline void pack_keys(const Cell* keys, size_t positions, size_t d, float* to) {
  for (size_t panel = 0; panel < positions; panel += kPanelPositions) {
    const size_t width = min(whole_lanes(positions - panel), kPanelPositions);
    for (size_t c = 0; c < d; c++)
      for (size_t i = 0; i < width; i += kLanes)
        store(to + panel * d + c * kPanelPositions + i, load(keys + (panel + i) * d + c * kLanes));
  }
}

// Values (positions, dv) block after block of by_vectors, each (kChunkPositions, its vectors): a
// tile then reads one range of the L1 cache.
template <class Cell>
inline void pack_values(const Cell* values, size_t positions, size_t dv, float* to) {
  by_vectors(dv / kLanes, [&](size_t v, auto vectors) {
    constexpr size_t kWidth = decltype(vectors)::value * kLanes;
    float* block = to + v * kLanes * kChunkPositions;
    for (size_t p = 0; p < positions; p++)
      for (size_t i = 0; i < kWidth; i += kLanes)
        store(block + p * kWidth + i, load(values + p * dv + v * kLanes + i));
  });
}

// Scores and factors; with many queries, packed keys and values.
template <class Cell>
size_t scratch_bytes(size_t queries, size_t d) {
  const size_t packed = queries < kManyQueries ? 0 : d + whole_lanes(d);
  return sizeof(float) *
         (kChunkPositions * (queries + packed) + whole_lanes(kStatistics * queries));
}

template <class Cell>
void attend(const AttentionChunk& chunk) {
  constexpr bool kScaled = std::is_same_v<Cell, int8_t>;
  const size_t queries = chunk.rows * chunk.heads, dv = whole_lanes(chunk.d);
  const auto* keys = static_cast<const Cell*>(chunk.keys);
  const auto* values = static_cast<const Cell*>(chunk.values);
  float* scores = static_cast<float*>(chunk.scratch);
  float* factors = scores + kChunkPositions * queries;
  if (queries < kManyQueries) {
    ChunkAttention<Cell, true, kScaled>(chunk, keys, values, scores, factors).run();
    return;
  }
  const size_t positions = min(chunk.visible + chunk.rows - 1, kChunkPositions);
  float* k = factors + whole_lanes(kStatistics * queries);
  float* v = k + kChunkPositions * chunk.d;
  pack_keys(keys, positions, chunk.d, k);
  pack_values(values, positions, dv, v);
  ChunkAttention<float, false, kScaled, Cell>(chunk, k, v, scores, factors).run();
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
constexpr CacheKernels kCache = {store_position<Cell>, scratch_bytes<Cell>, attend<Cell>, 256};

void combine(size_t queries, size_t dv, const float* sums, const float* statistics, float* all_sums,
             float* all_statistics) {
  for (size_t j = 0; j < queries; j++) {
    const float* here = statistics + j * kStatistics;
    float factors[2];
    combine_statistics(here[kMaximum], here[kTotal], all_statistics + j * kStatistics, factors);
    for (size_t c = 0; c < dv; c += kLanes) {
      float* to = all_sums + j * dv + c;
      store(to, mixed(load(sums + j * dv + c), factors, to));
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
