// Many int8 vectors at once, packing w16 with scales of groups of columns, AMX: int32 sums of each
// group in tiles (panels_amx.cpp), then sum * (scale * step) in float32.
//
// * A panel of 32 rows and a chunk of groups is made in one burst, then meets all vectors, two
//   tiles at a time: four loads of tiles feed four products. Panel, sums of tiles and float sums of
//   the panel's rows stay in L1, so that nothing but inputs comes from L2. If there is only one
//   tile of vectors, it meets two panels.
// * The processor overlaps a burst with the tile products before it, which run on a unit of their
//   own. Panels made one chunk ahead, bundle by bundle between the products, take longer.
// * Several groups of a chunk are scaled at once, so that the float sums are read and written once
//   a chunk. With one tile of vectors a chunk is one group: few products wait for a burst.
// * Vectors are divided into blocks whose inputs stay in L2 while they meet all rows.
//
// Per group of 128 inputs, 32 vectors and 32 rows: 8 tile products (128 cycles), and for the sums
// 64 vcvtdq2ps, 64 vfmadd, and with steps 64 vmulps and 32 vbroadcastss. The panels: panels.h.
//
// Bound: |sum| < 2^31 (columns_end in packing.h). The float sums are those of
// vector/w16_grouped_avx512.cpp, bit by bit.
#include "batch/grouped_panels.h"
#include "batch/tiles.h"

namespace rsr {
namespace {

constexpr size_t kMinVectors = 5;
constexpr size_t kMaxVectors = 256;
constexpr size_t kMaxBlockBytes = 1 << 20;  // of inputs
constexpr size_t kMaxChunk = 4;             // groups of a chunk
constexpr size_t kChunkDepth = 4;           // tiles of a panel of a chunk, unless a group has more

// A unit is multiplied at once: a panel and two tiles of vectors, or two panels and the only tile.
constexpr size_t kUnitPanels = 2;
constexpr size_t kUnitSums = 2 * kUnitPanels * kTileSums;  // of a group

// Tile products of a group.
size_t depth_of(const Grouping& grouping, int k) {
  return divide_up(GroupedSteps(grouping, k).of(0).steps(), kTileSteps);
}

// Groups of a chunk.
size_t chunk_of(size_t depth, size_t count) {
  const size_t groups = tiles_of(count) == 1 ? 1 : kChunkDepth / depth;
  return groups == 0 ? 1 : min(groups, kMaxChunk);
}

// Shared by a pass: its inputs, (tile, group, depth, vector, kTileBytes). Vectors that pad the last
// tile are not written, and their sums are not read.
size_t shared_bytes(const Grouping& grouping, int k, size_t count) {
  return tiles_of(count) * group_count(grouping) * depth_of(grouping, k) * tile_height(count) *
         kTileBytes;
}

void prepare(const int8_t* x, const int16_t*, int k, size_t columns, const Grouping& grouping,
             size_t count, size_t first, size_t last, void* shared) {
  static_assert(kPutSteps == kTileSteps);
  const size_t depth = depth_of(grouping, k), height = tile_height(count);
  const size_t groups = group_count(grouping), inputs = columns * W16::kBlocks * k;
  const GroupedSteps steps(grouping, k);
  for (size_t i = first; i < last; i++) {
    char* to = static_cast<char*>(shared) +
               (i / height * groups * depth * height + i % height) * kTileBytes;
    for (size_t g = 0; g < groups; g++)
      steps.of(g).arrange(x + i * inputs + g * grouping.blocks_per_group * k,
                          [&](size_t step, const char* bytes) {
                            const size_t d = g * depth + step / kTileSteps;
                            std::memcpy(to + d * height * kTileBytes, bytes, kTileBytes);
                          });
  }
}

// Of each thread: its tile configuration; the panels of a chunk; the sums of a unit and the scales
// of a chunk, (panel, group, kPanelRows); the float sums, (panel, vector, kPanelRows).
size_t panels_bytes(size_t depth, size_t chunk) {
  return kUnitPanels * chunk * depth * kTileSteps * kStepBytes;
}

size_t per_thread_bytes(const Grouping& grouping, int k, size_t count) {
  const size_t depth = depth_of(grouping, k), chunk = chunk_of(depth, count);
  return sizeof(TileConfig) + panels_bytes(depth, chunk) + chunk * kUnitSums * sizeof(int32_t) +
         kUnitPanels * (chunk + count) * kPanelRows * sizeof(float);
}

// Sums of a chunk of groups, a panel and a tile of vectors, to be scaled and added.
struct ChunkSums {
  const int32_t* tiles;  // (group, half of the rows, vector, 16 rows), groups kUnitSums apart
  const float* scales;   // (group, kPanelRows)
  const float* steps;    // (vector, all groups), or null
  size_t all_groups;
  size_t vectors;
  bool is_first, is_last;  // chunk
  float* floats;           // (vector, kPanelRows)
  float* y;
  size_t stride;
};

template <int G, bool kSteps>
void add_scaled(const ChunkSums& chunk) {
  const ChunkSums a = chunk;  // a copy: stores below cannot change it
  __m512 scales[G][2];
  for (int g = 0; g < G; g++)
    for (int h = 0; h < 2; h++) scales[g][h] = _mm512_loadu_ps(a.scales + g * kPanelRows + h * 16);
  for (size_t v = 0; v < a.vectors; v++) {
    const int32_t* sums = a.tiles + v * kTileRows;
    float* floats = a.floats + v * kPanelRows;
    __m512 low = _mm512_setzero_ps(), high = low;
    if (!a.is_first) low = _mm512_loadu_ps(floats), high = _mm512_loadu_ps(floats + 16);
#pragma GCC unroll 4
    for (int g = 0; g < G; g++, sums += kUnitSums) {
      __m512 low_scale = scales[g][0], high_scale = scales[g][1];
      if (kSteps) {
        const __m512 step = _mm512_set1_ps(a.steps[v * a.all_groups + g]);
        low_scale = _mm512_mul_ps(low_scale, step);
        high_scale = _mm512_mul_ps(high_scale, step);
      }
      low = _mm512_fmadd_ps(_mm512_cvtepi32_ps(load(sums)), low_scale, low);
      high = _mm512_fmadd_ps(_mm512_cvtepi32_ps(load(sums + kTileSums)), high_scale, high);
    }
    if (a.is_last) {
      store_rows(_mm512_castps_si512(low), _mm512_castps_si512(high), a.y + v * a.stride);
    } else {
      _mm512_storeu_ps(floats, low);
      _mm512_storeu_ps(floats + 16, high);
    }
  }
}

using AddScaled = void (*)(const ChunkSums&);
template <bool kSteps>
constexpr AddScaled kAddScaled[kMaxChunk] = {add_scaled<1, kSteps>, add_scaled<2, kSteps>,
                                             add_scaled<3, kSteps>, add_scaled<4, kSteps>};

template <int K>
class GroupedProduct {
 public:
  GroupedProduct(const RankedRows& rows, const GroupScales& scales, const int16_t* patterns, int k,
                 const void* shared, size_t count, void* per_thread, float* y, size_t stride)
      : rows_(rows),
        scales_(scales),
        count_(count),
        tiles_(tiles_of(count)),
        height_(tile_height(count)),
        unit_tiles_(tiles_ == 1 ? 1 : 2),
        unit_panels_(2 / unit_tiles_),
        groups_(group_count(scales.grouping)),
        depth_(depth_of(scales.grouping, k)),
        chunk_(chunk_of(depth_, count)),
        digits_(digit_bytes(patterns, k, 0)),
        steps_(scales.grouping, k),
        inputs_(static_cast<const char*>(shared)),
        panels_(static_cast<char*>(per_thread)),
        sums_(reinterpret_cast<int32_t*>(panels_ + panels_bytes(depth_, chunk_))),
        chunk_scales_(reinterpret_cast<float*>(sums_ + chunk_ * kUnitSums)),
        floats_(chunk_scales_ + kUnitPanels * chunk_ * kPanelRows),
        y_(y),
        stride_(stride) {}

  // Vectors in blocks of whole pairs of tiles, whose inputs stay in L2.
  void run() {
    const size_t units = divide_up(tiles_, unit_tiles_);
    const size_t blocks = divide_up(tiles_ * tile_bytes(), kMaxBlockBytes);
    for (size_t b = 0; b < blocks; b++) {
      const size_t first = b * units / blocks, last = (b + 1) * units / blocks;
      if (first < last) run_block(first * unit_tiles_, min(last * unit_tiles_, tiles_));
    }
  }

 private:
  // A chunk of groups, and the rows of one or two panels.
  struct Part {
    size_t row, panels, group, groups;
  };

  size_t tile_bytes() const { return groups_ * depth_ * height_ * kTileBytes; }
  size_t panel_bytes() const { return depth_ * kTileSteps * kStepBytes; }  // of a group

  char* panel(const Part& part, size_t p, size_t g) const {
    return panels_ + (p * part.groups + g) * panel_bytes();
  }

  void make(const Part& part) const {
    for (size_t p = 0; p < part.panels; p++) {
      const PanelRows rows(rows_, part.row + p * kPanelRows);
      for (size_t g = 0; g < part.groups; g++) {
        const size_t group = part.group + g;
        steps_.template make<K>(group, rows.words, rows.height, rows_.columns, digits_,
                                panel(part, p, g));
        load_scales(scales_, group, part.row - rows_.first + p * kPanelRows,
                    chunk_scales_ + (p * chunk_ + g) * kPanelRows);
      }
    }
  }

  // Tiles [first, last) of vectors.
  void run_block(size_t first, size_t last) {
    for (size_t row = rows_.first; row < rows_.last; row += unit_panels_ * kPanelRows)
      for (size_t group = 0; group < groups_; group += chunk_) {
        const Part part = {row, min(unit_panels_, (rows_.last - row) / kPanelRows), group,
                           min(chunk_, groups_ - group)};
        make(part);
        written_before_tiles_read();
        if (unit_tiles_ == 1) {
          part.panels == 2 ? multiply_tile<true>(part) : multiply_tile<false>(part);
          for (size_t p = 0; p < part.panels; p++) add_tile(part, p, 0, p);
        } else {
          for (size_t t = first; t < last; t += 2) {
            const bool is_pair = t + 1 < last;
            is_pair ? multiply_tiles<true>(part, t) : multiply_tiles<false>(part, t);
            add_tile(part, 0, t, 0);
            if (is_pair) add_tile(part, 0, t + 1, 1);
          }
        }
      }
  }

  // One or two panels of a chunk times the only tile of vectors.
  template <bool kTwo>
  void multiply_tile(const Part& part) const {
    int32_t* sums = sums_;
    for (size_t g = 0; g < part.groups; g++, sums += kUnitSums) {
      const char* x = inputs_ + (part.group + g) * depth_ * height_ * kTileBytes;
      const char *first = panel(part, 0, g), *second = panel(part, 1, g);
      begin_sums<kTwo, int32_t>(nullptr);
      const size_t depth = divide_up(steps_.of(part.group + g).steps(), kTileSteps);
      for (size_t d = 0; d < depth; d++, x += height_ * kTileBytes) {
        _tile_loadd(VECTORS_0, x, kTileBytes);
        _tile_loadd(ROWS_0, first, kStepBytes);
        _tile_dpbssd(SUMS_00, VECTORS_0, ROWS_0);
        _tile_loadd(ROWS_1, first + kTileBytes, kStepBytes);
        _tile_dpbssd(SUMS_01, VECTORS_0, ROWS_1);
        first += kTileSteps * kStepBytes;
        if (kTwo) {
          _tile_loadd(ROWS_0, second, kStepBytes);
          _tile_dpbssd(SUMS_10, VECTORS_0, ROWS_0);
          _tile_loadd(ROWS_1, second + kTileBytes, kStepBytes);
          _tile_dpbssd(SUMS_11, VECTORS_0, ROWS_1);
          second += kTileSteps * kStepBytes;
        }
      }
      store_sums<kTwo>(sums);
    }
    written_before_tiles_read();
  }

  // A panel of a chunk times one or two tiles of vectors.
  template <bool kTwo>
  void multiply_tiles(const Part& part, size_t tile) const {
    int32_t* sums = sums_;
    for (size_t g = 0; g < part.groups; g++, sums += kUnitSums) {
      const char* x =
          inputs_ + tile * tile_bytes() + (part.group + g) * depth_ * height_ * kTileBytes;
      const char* rows = panel(part, 0, g);
      begin_sums<kTwo, int32_t>(nullptr);
      const size_t depth = divide_up(steps_.of(part.group + g).steps(), kTileSteps);
      for (size_t d = 0; d < depth; d++, x += height_ * kTileBytes) {
        _tile_loadd(VECTORS_0, x, kTileBytes);
        _tile_loadd(ROWS_0, rows, kStepBytes);
        _tile_dpbssd(SUMS_00, VECTORS_0, ROWS_0);
        _tile_loadd(ROWS_1, rows + kTileBytes, kStepBytes);
        _tile_dpbssd(SUMS_01, VECTORS_0, ROWS_1);
        if (kTwo) {
          _tile_loadd(VECTORS_1, x + tile_bytes(), kTileBytes);
          _tile_dpbssd(SUMS_10, VECTORS_1, ROWS_0);
          _tile_dpbssd(SUMS_11, VECTORS_1, ROWS_1);
        }
        rows += kTileSteps * kStepBytes;
      }
      store_sums<kTwo>(sums);
    }
    written_before_tiles_read();
  }

  // unit_sums: which two tiles of the sums of a unit.
  void add_tile(const Part& part, size_t p, size_t tile, size_t unit_sums) const {
    const size_t v = tile * height_;
    const float* steps = scales_.steps ? scales_.steps + v * groups_ + part.group : nullptr;
    const AddScaled* add = steps ? kAddScaled<true> : kAddScaled<false>;
    add[part.groups - 1](
        {sums_ + unit_sums * 2 * kTileSums, chunk_scales_ + p * chunk_ * kPanelRows, steps, groups_,
         min(height_, count_ - v), part.group == 0, part.group + part.groups == groups_,
         floats_ + (p * count_ + v) * kPanelRows,
         y_ + v * stride_ + part.row - rows_.first + p * kPanelRows, stride_});
  }

  const RankedRows& rows_;
  const GroupScales& scales_;
  const size_t count_, tiles_, height_, unit_tiles_, unit_panels_, groups_, depth_, chunk_;
  const DigitBytes digits_;
  const GroupedSteps steps_;
  const char* inputs_;
  char* panels_;
  int32_t* sums_;
  float *chunk_scales_, *floats_, *y_;
  const size_t stride_;
};

void multiply(const RankedRows& rows, const GroupScales& scales, const int16_t* patterns, int k,
              const void* shared, size_t count, void* per_thread, float* y, size_t stride) {
  TileConfig& config = *static_cast<TileConfig*>(per_thread);
  configure_tiles(tile_height(count), config);
  with_k(k, [&](auto K) {
    GroupedProduct<K>(rows, scales, patterns, k, shared, count, &config + 1, y, stride).run();
  });
  _tile_release();
}

}  // namespace

void fill_grouped_panels_amx(KernelTable& table) {
  table.w16_i8.large_grouped_batch = {kMinVectors,      kMaxVectors, shared_bytes,
                                      per_thread_bytes, prepare,     multiply};
}

}  // namespace rsr
