// Attention by AMX: TDPBF16PS multiplies 16 queries by 16 positions (scores) or 16 columns of
// values (sums), 32 dimensions or positions deep, in 16 cycles.
//
// * Queries and weights are two bfloat16 numbers each, x1 = x rounded and x2 = x - x1 rounded: off
//   by at most 2^-16 |x|. A cell of float16 is exactly two such numbers, one of int8 exactly one.
//   Of the products of two numbers that are two parts each, x2 y2 is left out: at most 2^-16 |x y|.
//   So a score is off by 2^-15 sum |q k| and a sum of values by 2^-15 sum |w v|, beside roundings
//   of float32: far less than the cache loses, 2^-12 |k| in float16. Three products (int8: two)
//   instead of four.
// * A tile computes a row from that row alone, always in the same order: one row or many give the
//   same bits. That is why a single row takes tiles, too; fewer rows take fewer cycles.
// * Keys and values are converted once per call into tiles, 64 KiB each for heads of 128, which
// stay
//   in L2 for all queries: 14 instructions for 32 cells of float16, 8 for int8.
// * 2 x 2 tiles of results, or 1 x 4 for a single tile of queries: four sums, so that no product
//   waits for the one before. 8 tile loads feed 12 products.
// * Bfloat16 products take numbers below 2^-126 for zero, and round those next to FLT_MAX to
//   infinity.
#include <atomic>
#include <cstring>
#include <limits>

#include "decoder/lanes_avx512.h"

namespace rsr {
namespace {

constexpr size_t kTileRows = 16;
constexpr size_t kTileBytes = 64;  // of a row of a tile
constexpr size_t kTileDepth = kTileBytes / sizeof(uint16_t);
constexpr size_t kTile = kTileRows * kTileBytes;
constexpr size_t kParts = 2;  // of a query, and of a weight
constexpr size_t kPair = 2;   // tiles of queries at a time
constexpr size_t kSteps = kChunkPositions / kTileDepth;
constexpr size_t kPrefetchBytes = 24576;  // ahead, in a stream of keys or values

template <class Cell>
constexpr size_t kCellParts = std::is_same_v<Cell, int8_t> ? 1 : 2;

constexpr size_t depth_of(size_t d) { return divide_up(d, kTileDepth); }

// The operand of LDTILECFG.
struct TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

// GCC does not know that tile instructions read and write memory.
void order_tiles() { std::atomic_signal_fence(std::memory_order_seq_cst); }

// Tile registers: four results, two of queries or weights, two of keys or values. Macros, because
// GCC pastes them into assembly.
#define RESULT_0 0
#define RESULT_1 1
#define RESULT_2 2
#define RESULT_3 3
#define ROWS_0 4
#define ROWS_1 5
#define CELLS_0 6
#define CELLS_1 7

// Scratch memory of a call, in this order.
template <class Cell>
struct Layout {
  size_t keys, values, queries, scores, weights, sums, end;

  explicit Layout(size_t d) {
    const size_t dv = whole_lanes(d);
    keys = sizeof(TileConfig);
    values = keys + kChunkPositions / kTileRows * depth_of(d) * kCellParts<Cell> * kTile;
    queries = values + dv / kTileRows * kSteps * kCellParts<Cell> * kTile;
    scores = queries + kPair * depth_of(d) * kParts * kTile;
    weights = scores + kPair * kTileRows * kChunkPositions * sizeof(float);
    sums = weights + kPair * kSteps * kParts * kTile;
    end = sums + kTileRows * dv * sizeof(float);
  }
};

inline __m512i bits_of(__m512 a) { return _mm512_castps_si512(a); }
inline __m512 of_bits(__m512i a) { return _mm512_castsi512_ps(a); }
inline __m512i upper_words() { return _mm512_set1_epi32(static_cast<int>(0xffff0000)); }

// The upper halves of the floats of a, and beside each that of b, are a row of a tile. So the rows
// of a tile of queries or weights hold numbers j and j + 16 side by side, and those of a tile of
// keys or values two dimensions or positions that are 16 apart.
inline __m512i upper_halves(__m512i a, __m512i b) {
  return _mm512_or_si512(_mm512_srli_epi32(a, 16), _mm512_and_si512(b, upper_words()));
}

// The first parts: 8 of 24 bits, rounded half up.
inline __m512i first_part(Lanes a) {
  return _mm512_and_si512(_mm512_add_epi32(bits_of(a), _mm512_set1_epi32(0x8000)), upper_words());
}

// A row of a tile, and of the tile of second parts. NaN in `check` tells that a number is not
// finite.
inline void store_parts(Lanes a, Lanes b, char* first, char* second, Lanes& check) {
  const __m512i a1 = first_part(a), b1 = first_part(b);
  const Lanes a2 = sub(a, of_bits(a1)), b2 = sub(b, of_bits(b1));
  check = fma(a2, b2, check);
  _mm512_store_si512(first, upper_halves(a1, b1));
  _mm512_store_si512(second, upper_halves(bits_of(a2), bits_of(b2)));
}
inline void store_parts(Lanes a, Lanes b, char* first, char* second) {
  Lanes unused = a;
  store_parts(a, b, first, second, unused);
}

inline void store_cells(Lanes a, Lanes b, char* to, Lanes& check, const uint16_t*) {
  store_parts(a, b, to, to + kTile, check);
}
inline void store_cells(Lanes a, Lanes b, char* to, Lanes&, const int8_t*) {
  _mm512_store_si512(to, upper_halves(bits_of(a), bits_of(b)));
}

// e^x for x <= 0, NaN for NaN, with four instructions less than exp_of_negative: 2^t = 2^n 2^f, n =
// t rounded, |f| <= 1/2. Off by a factor of 1 +- 2^-22 (1 + |x|): 2^-24 |x| from t, 1e-7 from the
// polynomial, and roundings. e^0 = 1.
inline Lanes exponential(Lanes x) {
  const Lanes t = max(broadcast(-200.0f), mul(x, broadcast(1.44269504f)));
  const Lanes n = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const Lanes f = sub(t, n);
  Lanes p = broadcast(0x1.5bba12p-10f);
  p = fma(p, f, broadcast(0x1.3cea88p-7f));
  p = fma(p, f, broadcast(0x1.c6b752p-5f));
  p = fma(p, f, broadcast(0x1.ebf9bcp-3f));
  p = fma(p, f, broadcast(0x1.62e42ap-1f));
  p = fma(p, f, broadcast(1.0f));
  return _mm512_scalef_ps(p, n);
}

inline bool is_nan(Lanes a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q) != 0; }
inline bool is_finite(uint16_t half) { return (half & 0x7c00) != 0x7c00; }
inline float value_of(uint16_t half) { return _cvtsh_ss(half); }

// Rows of queries or weights, in one or two tiles, times up to four blocks of keys or values.
struct TileProduct {
  const char* rows;  // (tile, steps, kParts, height, kTileBytes)
  size_t steps, height;
  size_t first, last;  // steps to sum over
  float* out;          // (tile * height, stride)
  float* second_out;   // of the second tile
  size_t stride;       // floats
};

template <int kBlocks, size_t kCellParts>
void multiply_one(const TileProduct& p, const char* cells, float* out) {
  const size_t row_tile = p.height * kTileBytes, block = p.steps * kCellParts * kTile;
  _tile_zero(RESULT_0);
  if constexpr (kBlocks > 1) _tile_zero(RESULT_1);
  if constexpr (kBlocks > 2) _tile_zero(RESULT_2);
  if constexpr (kBlocks > 3) _tile_zero(RESULT_3);
// Two blocks at a time, so that no product waits for the one before.
#define RSR_BLOCKS(n, first, second)                                        \
  if constexpr (kBlocks > n) {                                              \
    const char* here = b + n * block;                                       \
    for (int part = kCellParts - 1; part >= 0; part--) {                    \
      _tile_loadd(CELLS_0, here + part * kTile, 64);                        \
      _tile_dpbf16ps(first, ROWS_0, CELLS_0);                               \
      if constexpr (kBlocks > n + 1) {                                      \
        _tile_loadd(CELLS_1, here + block + part * kTile, 64);              \
        _tile_dpbf16ps(second, ROWS_0, CELLS_1);                            \
      }                                                                     \
    }                                                                       \
    _tile_dpbf16ps(first, ROWS_1, CELLS_0);                                 \
    if constexpr (kBlocks > n + 1) _tile_dpbf16ps(second, ROWS_1, CELLS_1); \
  }
  for (size_t s = p.first; s < p.last; s++) {
    const char* a = p.rows + s * kParts * row_tile;
    const char* b = cells + s * kCellParts * kTile;
    _tile_loadd(ROWS_0, a, 64);
    _tile_loadd(ROWS_1, a + row_tile, 64);
    RSR_BLOCKS(0, RESULT_0, RESULT_1)
    RSR_BLOCKS(2, RESULT_2, RESULT_3)
  }
#undef RSR_BLOCKS
  const size_t stride = p.stride * sizeof(float);
  _tile_stored(RESULT_0, out, stride);
  if constexpr (kBlocks > 1) _tile_stored(RESULT_1, out + kTileRows, stride);
  if constexpr (kBlocks > 2) _tile_stored(RESULT_2, out + 2 * kTileRows, stride);
  if constexpr (kBlocks > 3) _tile_stored(RESULT_3, out + 3 * kTileRows, stride);
}

template <int kBlocks, size_t kCellParts>
void multiply_two(const TileProduct& p, const char* cells, float* out, float* second_out) {
  const size_t row_tile = p.height * kTileBytes, block = p.steps * kCellParts * kTile;
  _tile_zero(RESULT_0);
  _tile_zero(RESULT_2);
  if constexpr (kBlocks > 1) {
    _tile_zero(RESULT_1);
    _tile_zero(RESULT_3);
  }
  for (size_t s = p.first; s < p.last; s++) {
    const char* a = p.rows + s * kParts * row_tile;
    const char* a1 = a + p.steps * kParts * row_tile;
    const char* b = cells + s * kCellParts * kTile;
    _tile_loadd(ROWS_0, a, 64);
    _tile_loadd(ROWS_1, a1, 64);
    for (int part = kCellParts - 1; part >= 0; part--) {
      _tile_loadd(CELLS_0, b + part * kTile, 64);
      _tile_dpbf16ps(RESULT_0, ROWS_0, CELLS_0);
      _tile_dpbf16ps(RESULT_2, ROWS_1, CELLS_0);
      if constexpr (kBlocks > 1) {
        _tile_loadd(CELLS_1, b + block + part * kTile, 64);
        _tile_dpbf16ps(RESULT_1, ROWS_0, CELLS_1);
        _tile_dpbf16ps(RESULT_3, ROWS_1, CELLS_1);
      }
    }
    _tile_loadd(ROWS_0, a + row_tile, 64);
    _tile_loadd(ROWS_1, a1 + row_tile, 64);
    _tile_dpbf16ps(RESULT_0, ROWS_0, CELLS_0);
    _tile_dpbf16ps(RESULT_2, ROWS_1, CELLS_0);
    if constexpr (kBlocks > 1) {
      _tile_dpbf16ps(RESULT_1, ROWS_0, CELLS_1);
      _tile_dpbf16ps(RESULT_3, ROWS_1, CELLS_1);
    }
  }
  const size_t stride = p.stride * sizeof(float);
  _tile_stored(RESULT_0, out, stride);
  _tile_stored(RESULT_2, second_out, stride);
  if constexpr (kBlocks > 1) {
    _tile_stored(RESULT_1, out + kTileRows, stride);
    _tile_stored(RESULT_3, second_out + kTileRows, stride);
  }
}

// For `blocks` blocks of cells, (block, steps, kCellParts, kTile).
template <size_t kCellParts>
void multiply(const TileProduct& p, bool is_two, const char* cells, size_t blocks) {
  const size_t block = p.steps * kCellParts * kTile;
  order_tiles();
  const size_t most = is_two ? 2 : 4;
  for (size_t n = 0; n < blocks; n += most) {
    const char* b = cells + n * block;
    float *out = p.out + n * kTileRows, *second = p.second_out + n * kTileRows;
    const size_t count = min(blocks - n, most);
    if (is_two)
      count == 2 ? multiply_two<2, kCellParts>(p, b, out, second)
                 : multiply_two<1, kCellParts>(p, b, out, second);
    else
      count == 4   ? multiply_one<4, kCellParts>(p, b, out)
      : count == 3 ? multiply_one<3, kCellParts>(p, b, out)
      : count == 2 ? multiply_one<2, kCellParts>(p, b, out)
                   : multiply_one<1, kCellParts>(p, b, out);
  }
  order_tiles();
}

template <class Cell>
class TileAttention {
 public:
  explicit TileAttention(const AttentionChunk& chunk)
      : chunk_(chunk),
        keys_(static_cast<const Cell*>(chunk.keys)),
        values_(static_cast<const Cell*>(chunk.values)),
        d_(chunk.d),
        dv_(whole_lanes(chunk.d)),
        depth_(depth_of(chunk.d)),
        queries_(chunk.rows * chunk.heads),
        tiles_(divide_up(queries_, kTileRows)),
        height_(divide_up(queries_, tiles_)),
        begin_(hidden(0)),
        end_(visible(queries_ - 1)),
        memory_(static_cast<char*>(chunk.scratch)),
        at_(chunk.d) {}

  void run() {
    configure_tiles();
    if (tiles_ > 1) {
      convert_keys(begin_ / kTileRows, divide_up(end_, kTileRows));
      convert_values(0, dv_ / kTileRows);
    }
    for (size_t t = 0; t < tiles_; t += kPair) attend(t, min(kPair, tiles_ - t));
    _tile_release();
  }

 private:
  // Query j sees positions [hidden(j), visible(j)); both grow with j.
  size_t hidden(size_t j) const {
    const size_t before = chunk_.visible + j / chunk_.heads;
    return before > chunk_.window ? before - chunk_.window : 0;
  }
  size_t visible(size_t j) const { return min(chunk_.visible + j / chunk_.heads, kChunkPositions); }

  const float* query(size_t j) const {
    return chunk_.queries + j / chunk_.heads * chunk_.row_stride + j % chunk_.heads * d_;
  }
  float* scores(size_t r) const {
    return reinterpret_cast<float*>(memory_ + at_.scores) + r * kChunkPositions;
  }
  // Row r of a pair of tiles, in step s.
  char* weights(size_t r, size_t s) const {
    return memory_ + at_.weights + (r / height_ * kSteps + s) * kParts * height_ * kTileBytes +
           r % height_ * kTileBytes;
  }

  void configure_tiles() const {
    TileConfig& config = *reinterpret_cast<TileConfig*>(memory_);
    config = {};
    config.palette = 1;
    for (int tile = 0; tile < 8; tile++) {
      config.row_bytes[tile] = kTileBytes;
      config.rows[tile] =
          static_cast<uint8_t>(tile == CELLS_0 || tile == CELLS_1 ? kTileRows : height_);
    }
    order_tiles();
    _tile_loadconfig(&config);
  }

  static void prefetch_ahead(const Cell* cells) {
    prefetch(reinterpret_cast<const char*>(cells) + kPrefetchBytes);
  }

  // Tiles [from, until) of 16 positions; zeros complete the last step.
  void convert_keys(size_t from, size_t until) {
    Lanes check = broadcast(0.0f);
    for (size_t n = from; n < until; n++) {
      const Cell* cells = keys_ + n * d_ * kLanes;
      char* block = memory_ + at_.keys + n * depth_ * kCellParts<Cell> * kTile;
      const Cell* values = values_ + n * dv_ * kLanes;
      // Lanes that no query sees may hold anything: they spoil only their own scores.
      for (size_t c = 0; c < depth_ * kTileDepth; c += kTileDepth) {
        char* to = block + c / kTileDepth * kCellParts<Cell> * kTile;
        for (size_t r = 0; r < kTileRows; r++, to += kTileBytes) {
          const size_t first = (c + r) * kLanes, second = first + kTileRows * kLanes;
          const bool has_first = c + r < d_, has_second = c + r + kTileRows < d_;
          prefetch_ahead(cells + first);
          prefetch_ahead(cells + second);
          prefetch(reinterpret_cast<const char*>(values + first));
          prefetch(reinterpret_cast<const char*>(values + second));
          store_cells(has_first ? load(cells + first) : broadcast(0.0f),
                      has_second ? load(cells + second) : broadcast(0.0f), to, check, keys_);
        }
      }
    }
    keys_are_finite_ = keys_are_finite_ && !is_nan(check);
  }

  // Tiles [from, until) of 16 columns. Zeros where no query looks.
  void convert_values(size_t from, size_t until) {
    Lanes check = broadcast(0.0f);
    constexpr size_t kColumns = kSteps * kCellParts<Cell> * kTile;  // to the next tile of columns
    const Lanes zero = broadcast(0.0f);
    for (size_t step = begin_ / kTileDepth; step * kTileDepth < end_; step++)
      for (size_t r = 0; r < kTileRows; r++) {
        const size_t p = step * kTileDepth + r, q = p + kTileRows;
        const bool sees_first = begin_ <= p && p < end_, sees_second = begin_ <= q && q < end_;
        const Cell *first = values_ + p * dv_, *second = values_ + q * dv_;
        char* to = value_cells(p, from);
        for (size_t c = from * kTileRows; c < until * kTileRows; c += kTileRows, to += kColumns) {
          prefetch_ahead(first + c);
          prefetch_ahead(second + c);
          store_cells(sees_first ? load(first + c) : zero, sees_second ? load(second + c) : zero,
                      to, check, values_);
        }
      }
    if (is_nan(check)) {
      values_are_finite_ = false;
      if constexpr (kCellParts<Cell> == 2)
        clear_values_that_are_not_finite(from * kTileRows, min(until * kTileRows, d_));
    }
  }

  // The row of position p in a tile of columns, and the place in it of lane i.
  char* value_cells(size_t p, size_t column_tile) const {
    return memory_ + at_.values +
           (column_tile * kSteps + p / kTileDepth) * kCellParts<Cell> * kTile +
           p % kTileRows * kTileBytes;
  }
  static size_t place(size_t i, size_t p) {
    return (2 * i + p % kTileDepth / kTileRows) * sizeof(uint16_t);
  }

  // In the tiles they would reach rows that do not see them: 0 * NaN.
  void clear_values_that_are_not_finite(size_t from, size_t until) const {
    for (size_t p = begin_; p < end_; p++)
      for (size_t c = from; c < until; c++) {
        if (is_finite(values_[p * dv_ + c])) continue;
        char* to = value_cells(p, c / kTileRows) + place(c % kTileRows, p);
        std::memset(to, 0, sizeof(uint16_t));
        std::memset(to + kTile, 0, sizeof(uint16_t));
      }
  }

  // Tiles [t, t + count) of queries.
  void attend(size_t t, size_t count) {
    const size_t first = t * height_, last = min(queries_, first + count * height_);
    for_each_row(first, last, [&](const Row& row) { split_query(row); });
    const size_t begin = hidden(first), end = visible(last - 1);
    const size_t block = begin / kTileRows, blocks = divide_up(end, kTileRows) - block;
    float* to = scores(0) + block * kTileRows;
    const TileProduct of_keys = {
        memory_ + at_.queries,          depth_,         height_, 0, depth_, to,
        to + height_ * kChunkPositions, kChunkPositions};
    multiply_cells(of_keys, count == 2, at_.keys + block * depth_ * kCellParts<Cell> * kTile,
                   blocks, [&](size_t n, size_t until) { convert_keys(block + n, block + until); });
    if constexpr (kCellParts<Cell> == 2)
      if (!keys_are_finite_) score_keys_that_are_not_finite(first, last);
    const size_t first_step = begin / kTileDepth, last_step = divide_up(end, kTileDepth);
    for_each_row(first, last, [&](const Row& row) { weigh(row, first_step, last_step); });

    float* sums = chunk_.sums + first * dv_;
    float* second = sums + height_ * dv_;
    float* spare = reinterpret_cast<float*>(memory_ + at_.sums);
    // A tile with rows beyond the queries is stored here, then copied.
    const size_t whole = (last - first) / height_, rest = (last - first) % height_;
    const TileProduct of_values = {memory_ + at_.weights,
                                   kSteps,
                                   height_,
                                   first_step,
                                   last_step,
                                   whole > 0 ? sums : spare,
                                   whole > 1 ? second : spare,
                                   dv_};
    multiply_cells(of_values, count == 2, at_.values, dv_ / kTileRows,
                   [&](size_t n, size_t until) { convert_values(n, until); });
    if (rest) std::memcpy(sums + whole * height_ * dv_, spare, rest * dv_ * sizeof(float));
    if constexpr (kCellParts<Cell> == 2)
      if (!values_are_finite_) add_values_that_are_not_finite(first, last);
  }

  // A single tile of queries meets its cells only once, so they are converted just before, while
  // earlier products run.
  template <class Convert>
  void multiply_cells(TileProduct product, bool is_two, size_t cells, size_t blocks,
                      const Convert& convert) {
    const size_t block = product.steps * kCellParts<Cell> * kTile;
    if (tiles_ > 1) {
      multiply<kCellParts<Cell>>(product, is_two, memory_ + cells, blocks);
      return;
    }
    for (size_t n = 0; n < blocks; n += 4, product.out += 4 * kTileRows) {
      const size_t until = min(n + 4, blocks);
      convert(n, until);
      multiply<kCellParts<Cell>>(product, false, memory_ + cells + n * block, until - n);
    }
  }

  // A query and its row in a pair of tiles.
  struct Row {
    size_t j;  // of the query
    size_t tile, in_tile;
    size_t head;  // of those that share the key head
    const float* query;
    size_t hidden, visible;  // it sees positions [hidden, visible)
    const float* scores;
  };

  template <class Body>
  void for_each_row(size_t first, size_t last, const Body& body) const {
    const size_t row = first / chunk_.heads, head = first % chunk_.heads;
    Row r = {first, 0, 0, head, query(first), 0, 0, scores(0)};
    size_t before = chunk_.visible + row;
    for (; r.j < last; r.j++) {
      r.hidden = before > chunk_.window ? before - chunk_.window : 0;
      r.visible = min(before, kChunkPositions);
      body(r);
      r.scores += kChunkPositions;
      r.query += d_;
      if (++r.head == chunk_.heads)
        r.head = 0, before++, r.query += chunk_.row_stride - chunk_.heads * d_;
      if (++r.in_tile == height_) r.in_tile = 0, r.tile++;
    }
  }

  void split_query(const Row& row) const {
    const float* q = row.query;
    char* to = memory_ + at_.queries + row.tile * depth_ * kParts * height_ * kTileBytes +
               row.in_tile * kTileBytes;
    for (size_t c = 0; c < d_; c += kTileDepth, to += kParts * height_ * kTileBytes) {
      const size_t left = min(d_ - c, kTileDepth);
      if (left == kTileDepth)
        store_parts(load(q + c), load(q + c + kLanes), to, to + height_ * kTileBytes);
      else
        store_parts(load_part(q + c, min(left, kLanes)),
                    left > kLanes ? load_part(q + c + kLanes, left - kLanes) : broadcast(0.0f), to,
                    to + height_ * kTileBytes);
    }
  }

  // Scores become exp(score - maximum), times the scale of the value, in a row of the weights. The
  // maximum is finite: where all scores are -inf, the weights are zero.
  void weigh(const Row& row, size_t first, size_t last) const {
    if (row.hidden == 0 && row.visible == kChunkPositions)
      weigh_steps<true>(row, 0, kSteps);
    else
      weigh_steps<false>(row, first, last);
  }

  template <bool kSeesAll>
  void weigh_steps(const Row& row, size_t first, size_t last) const {
    constexpr bool kScaled = kCellParts<Cell> == 1;
    constexpr size_t kVectors = kChunkPositions / kLanes;
    const size_t from = 2 * first, to = kSeesAll ? kVectors : 2 * last;
    Lanes scores[kVectors];
    __mmask16 seen[kVectors];
    Lanes most = broadcast(std::numeric_limits<float>::lowest());
    for (size_t v = from; v < to; v++) {
      scores[v] = load(row.scores + v * kLanes);
      if constexpr (kScaled) scores[v] = mul(scores[v], load(chunk_.key_scales + v * kLanes));
      if constexpr (!kSeesAll) {
        seen[v] = lanes_below(row.visible, v * kLanes) & ~lanes_below(row.hidden, v * kLanes);
        scores[v] = _mm512_mask_mov_ps(broadcast(-std::numeric_limits<float>::infinity()), seen[v],
                                       scores[v]);
      }
      most = max(scores[v], most);
    }
    const float maximum = largest(most);
    most = broadcast(maximum);
    Lanes total = broadcast(0.0f);
    for (size_t v = from; v < to; v++) {
      scores[v] = exponential(sub(scores[v], most));
      total = add(total, scores[v]);
      if constexpr (kScaled) {
        const float* scales = chunk_.value_scales + v * kLanes;
        scores[v] =
            mul(scores[v], kSeesAll ? load(scales) : _mm512_maskz_loadu_ps(seen[v], scales));
      }
    }
    char* weights = memory_ + at_.weights + row.tile * kSteps * kParts * height_ * kTileBytes +
                    row.in_tile * kTileBytes;
    for (size_t v = from; v < to; v += 2) {
      char* part = weights + v / 2 * kParts * height_ * kTileBytes;
      store_parts(scores[v], scores[v + 1], part, part + height_ * kTileBytes);
    }
    chunk_.statistics[row.j * kStatistics + kMaximum] = maximum;
    chunk_.statistics[row.j * kStatistics + kTotal] = sum(total);
  }

  // The lanes from position p on whose positions are below n.
  static __mmask16 lanes_below(size_t n, size_t p) {
    return n >= p + kLanes ? 0xffff : n > p ? static_cast<__mmask16>((1u << (n - p)) - 1) : 0;
  }

  // Their second parts are infinity minus infinity.
  void score_keys_that_are_not_finite(size_t first, size_t last) const {
    for (size_t p = begin_; p < end_; p++) {
      const Cell* key = keys_ + p / kLanes * d_ * kLanes + p % kLanes;
      bool all = true;
      for (size_t c = 0; c < d_; c++) all = all && is_finite(key[c * kLanes]);
      if (all) continue;
      for (size_t j = first; j < last; j++) {
        float score = 0;
        for (size_t c = 0; c < d_; c++) score += query(j)[c] * value_of(key[c * kLanes]);
        scores(j - first)[p] = score;
      }
    }
  }

  void add_values_that_are_not_finite(size_t first, size_t last) const {
    for (size_t j = first; j < last; j++)
      for (size_t p = hidden(j); p < visible(j); p++) {
        uint16_t word;
        std::memcpy(&word, weights(j - first, p / kTileDepth) + place(p % kTileRows, p), 2);
        const uint32_t bits = static_cast<uint32_t>(word) << 16;
        float weight;
        std::memcpy(&weight, &bits, sizeof weight);
        for (size_t c = 0; c < d_; c++) {
          const Cell cell = values_[p * dv_ + c];
          if (!is_finite(cell)) chunk_.sums[j * dv_ + c] += weight * value_of(cell);
        }
      }
  }

  const AttentionChunk& chunk_;
  const Cell* keys_;
  const Cell* values_;
  const size_t d_, dv_, depth_;
  const size_t queries_, tiles_, height_;
  const size_t begin_, end_;  // positions that any query sees
  char* memory_;
  const Layout<Cell> at_;
  bool keys_are_finite_ = true, values_are_finite_ = true;
};

template <class Cell>
size_t scratch_bytes(size_t, size_t d) {
  return Layout<Cell>(d).end;
}

template <class Cell>
void attend(const AttentionChunk& chunk) {
  TileAttention<Cell>(chunk).run();
}

template <class Cell>
void fill(CacheKernels& kernels) {
  kernels.scratch_bytes = scratch_bytes<Cell>;
  kernels.attend = attend<Cell>;
  kernels.most_queries = 512;  // scratch memory does not grow with them
}

}  // namespace

// float32 stays with AVX-512: two parts of bfloat16 would lose half of its bits.
void fill_attention_amx(KernelTable& table) {
  fill<uint16_t>(table.decoder.f16);
  fill<int8_t>(table.decoder.i8);
}

}  // namespace rsr
