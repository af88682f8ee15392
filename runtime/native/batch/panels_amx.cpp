// Many int8 vectors at once, packing w16, AMX: TDPBSSD multiplies 16 vectors by 16 rows, 64 inputs
// deep, in 16 cycles. The digits come from panels (panels.h).
//
// * A panel of 32 rows and a block of inputs meets all vectors of the pass. Two panels exist at a
//   time, 36 to 60 KiB, in L1 and L2.
// * 2 x 2 tiles of sums: four tile loads feed four TDPBSSD, two from the panel and two from the
//   packed inputs in L2. Prefetching the inputs costs more than it gains: 32 prefetches beside 64
//   loads took 8 % of the time.
// * Making a panel takes as long as multiplying some 20 vectors, on other execution units. So the
//   next panel is made between the tile products of this one, a bundle at a time; out-of-order
//   execution overlaps them.
// * A block of inputs meets a whole strip, so it is read from L2 or beyond once per 128 rows.
// * A tile product takes a cycle per vector, so vectors are divided evenly among tiles.
//
// Bound: |sum| < 2^31 (columns_end in packing.h); so are all intermediate sums.
#include <cstring>

#include "batch/panels.h"
#include "batch/tiles.h"

namespace rsr {
namespace {

constexpr size_t kMinVectors = 5;    // lookups are as fast for 4, and take 1.4x as long for 6
constexpr size_t kMaxVectors = 256;  // of a pass: their sums and a block of their inputs fit L2

static_assert(kTileSums == kTileRows * kPanelRows / 2);

// Shared by a pass: its inputs in blocks, each (tile, depth, vector, kTileBytes inputs). A block is
// a whole number of tiles deep; zeros complete the last. Vectors that pad the last tile are not
// written, and their sums are not read.
size_t shared_bytes(size_t columns, int k, size_t count) {
  return blocks_of(columns, k) * block_inputs(k) * tiles_of(count) * tile_height(count);
}

void prepare(const int8_t* x, const int16_t*, int k, size_t columns, size_t count, size_t first,
             size_t last, void* shared) {
  const size_t inputs = columns * bundle_inputs(k) / kBundleColumns, block = block_inputs(k);
  const size_t height = tile_height(count), block_bytes = block * tiles_of(count) * height;
  const Arrangement arrange(k);
  for (size_t i = first; i < last; i++) {
    char* to = static_cast<char*>(shared) + i / height * height * block + i % height * kTileBytes;
    for (size_t done = 0; done < inputs; done += block, to += block_bytes) {
      BlockInputs steps;
      const size_t here = min(inputs - done, block);
      char* end = arrange(x + i * inputs + done, here, steps.bytes);
      const size_t depth = divide_up(end - steps.bytes, kTileBytes);
      std::memset(end, 0, steps.bytes + depth * kTileBytes - end);
      for (size_t d = 0; d < depth; d++)
        std::memcpy(to + d * height * kTileBytes, steps.bytes + d * kTileBytes, kTileBytes);
    }
  }
}

// Of each thread: its tile configuration, two panels, and the sums of a strip, (panel, tile of
// vectors, half of the rows, vector, 16 rows).
constexpr size_t panel_bytes(int k) { return block_steps(k) * kStepBytes; }

size_t per_thread_bytes(size_t, int k, size_t count) {
  return sizeof(TileConfig) + 2 * panel_bytes(k) +
         W16::kStripRows / kPanelRows * tiles_of(count) * 2 * kTileSums * sizeof(int32_t);
}

// Makes one panel, a bundle at a time.
template <int K>
class PanelMaker {
 public:
  PanelMaker(const uint16_t* words, size_t height, size_t columns, int k, const DigitBytes& digits,
             char* panel)
      : words_(words), height_(height), columns_(columns), k_(k), digits_(digits), panel_(panel) {}

  void make_some(size_t bundles) {
    for (; bundles > 0 && columns_ > 0; bundles--) {
      make_bundle<K>(words_, height_, columns_, k_, digits_, panel_);
      const size_t columns = min(columns_, kBundleColumns);
      // Prefetch the same rows of the next block.
      for (size_t c = 0; c < columns; c++)
        _mm_prefetch(reinterpret_cast<const char*>(
                         words_ + (block_bundles(k_) * kBundleColumns + c) * height_),
                     _MM_HINT_T1);
      words_ += columns * height_;
      columns_ -= columns;
      panel_ += bundle_steps(k_) * kStepBytes;
    }
  }

  void make_all() { make_some(block_bundles(k_)); }

 private:
  const uint16_t* words_;
  const size_t height_;
  size_t columns_;
  const int k_;
  const DigitBytes& digits_;
  char* panel_;
};

// Adds the products of a panel and one or two tiles of vectors to their sums. Calls make_next()
// between tile products.
template <bool kTwo, class MakeNext>
inline void multiply_tiles(const char* panel, const char* x, size_t tile_bytes, size_t height,
                           size_t depth, bool first, int32_t* sums, const MakeNext& make_next) {
  begin_sums<kTwo>(first ? nullptr : sums);
  for (size_t d = 0; d < depth; d++) {
    const char* x0 = x + d * height * kTileBytes;
    const char* x1 = x0 + tile_bytes;
    _tile_loadd(ROWS_0, panel, kStepBytes);
    _tile_loadd(VECTORS_0, x0, kTileBytes);
    _tile_dpbssd(SUMS_00, VECTORS_0, ROWS_0);
    _tile_loadd(ROWS_1, panel + kTileBytes, kStepBytes);
    _tile_dpbssd(SUMS_01, VECTORS_0, ROWS_1);
    if (kTwo) {
      _tile_loadd(VECTORS_1, x1, kTileBytes);
      _tile_dpbssd(SUMS_10, VECTORS_1, ROWS_0);
      _tile_dpbssd(SUMS_11, VECTORS_1, ROWS_1);
    }
    panel += kTileSteps * kStepBytes;
    make_next();
  }
  store_sums<kTwo>(sums);
}

template <int K>
class StripProduct {
 public:
  StripProduct(const RankedRows& rows, const int16_t* patterns, int k, const void* shared,
               size_t count, void* per_thread)
      : rows_(rows),
        k_(k),
        count_(count),
        tiles_(tiles_of(count)),
        height_(tile_height(count)),
        digits_(digit_bytes(patterns, k, 0)),
        inputs_(static_cast<const char*>(shared)),
        panels_(static_cast<char*>(per_thread)),
        sums_(reinterpret_cast<int32_t*>(panels_ + 2 * panel_bytes(k))) {}

  // Rows [first, last) of a strip, for all vectors.
  void run(const uint16_t* words, size_t strip_rows, size_t first, size_t last, int32_t* y,
           size_t stride) {
    const size_t panels = (last - first) / kPanelRows;
    const size_t parts = panels * blocks_of(rows_.columns, k_);  // (block, panel)
    const auto maker = [&](size_t part) {
      const size_t column = part / panels * block_bundles(k_) * kBundleColumns;
      const size_t left = rows_.columns - column, most = block_bundles(k_) * kBundleColumns;
      return PanelMaker<K>(words + column * strip_rows + first + part % panels * kPanelRows,
                           strip_rows,
                           part == parts ? 0
                           : left < most ? left
                                         : most,
                           k_, digits_, panel(part));
    };
    maker(0).make_all();
    for (size_t part = 0; part < parts; part++) {
      PanelMaker<K> next = maker(part + 1);
      written_before_tiles_read();
      multiply(part / panels, part % panels, panel(part), next);
    }
    for (size_t p = 0; p < panels; p++)
      for (size_t i = 0; i < count_; i++) {
        const int32_t* low = sums(p, i / height_) + i % height_ * 16;
        store_rows(load(low), load(low + kTileSums), y + i * stride + p * kPanelRows);
      }
  }

 private:
  char* panel(size_t part) const { return panels_ + part % 2 * panel_bytes(k_); }
  int32_t* sums(size_t panel, size_t tile) const {
    return sums_ + (panel * tiles_ + tile) * 2 * kTileSums;
  }

  // A panel times all vectors. Meanwhile `next` is made, one bundle every places / block_bundles
  // tile products, so that it is complete by the last.
  void multiply(size_t block, size_t p, const char* panel, PanelMaker<K>& next) const {
    const size_t bundles = bundles_of(rows_.columns) - block * block_bundles(k_);
    const size_t steps = min(bundles, block_bundles(k_)) * bundle_steps(k_);
    const size_t depth = divide_up(steps, kTileSteps);
    const size_t tile_bytes = block_inputs(k_) * height_;
    const size_t places = divide_up(tiles_, 2) * depth;  // tile products
    size_t due = 0;
    const auto make_next = [&] {
      for (due += block_bundles(k_); due >= places; due -= places) next.make_some(1);
    };
    const char* x = inputs_ + block * tiles_ * tile_bytes;
    for (size_t t = 0; t < tiles_; t += 2, x += 2 * tile_bytes)
      t + 1 < tiles_ ? multiply_tiles<true>(panel, x, tile_bytes, height_, depth, block == 0,
                                            sums(p, t), make_next)
                     : multiply_tiles<false>(panel, x, tile_bytes, height_, depth, block == 0,
                                             sums(p, t), make_next);
  }

  const RankedRows& rows_;
  const int k_;
  const size_t count_, tiles_, height_;
  const DigitBytes digits_;
  const char* inputs_;
  char* panels_;  // two: one is multiplied, the other is made
  int32_t* sums_;
};

template <int K>
void multiply(const RankedRows& rows, const int16_t* patterns, int k, const void* shared,
              size_t count, void* per_thread, int32_t* y, size_t stride) {
  TileConfig& config = *static_cast<TileConfig*>(per_thread);
  configure_tiles(tile_height(count), config);
  StripProduct<K> product(rows, patterns, k, shared, count, &config + 1);
  for (size_t row = rows.first, stop; row < rows.last; row = stop) {
    const size_t strip = row / W16::kStripRows * W16::kStripRows;
    const size_t height = strip_height<W16>(rows.end - strip);
    stop = min(rows.last, strip + height);
    const uint16_t* words = reinterpret_cast<const uint16_t*>(rows.index) + strip * rows.columns;
    product.run(words, height, row - strip, stop - strip, y + row - rows.first, stride);
  }
  _tile_release();
}

void multiply_any(const RankedRows& rows, const int16_t* patterns, int k, const void* shared,
                  size_t count, void* per_thread, int32_t* y, size_t stride) {
  with_k(k, [&](auto K) { multiply<K>(rows, patterns, k, shared, count, per_thread, y, stride); });
}

}  // namespace

void fill_panels_amx(KernelTable& table) {
  table.w16_i8.large_batch = {kMinVectors,      kMaxVectors, shared_bytes,
                              per_thread_bytes, prepare,     multiply_any};
}

}  // namespace rsr
