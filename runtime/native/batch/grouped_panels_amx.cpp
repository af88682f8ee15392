// Many int8 vectors at once, packing w16 with scales of groups of columns, AMX: int32 sums of each
// group in tiles (panels_amx.cpp), then sum * (scale * step) in float32.
//
// * A tile of vectors meets two panels, 64 rows: one tile load of inputs and four of panels feed
//   four products. The inputs come from L2, so halving their reads is worth the additional load.
// * Two tiles of vectors meet one panel instead: panels and inputs are then in L1.
// * A chunk of groups is multiplied, then its sums are scaled and added to the float sums, which
//   are read and written once a chunk.
// * The panels of the next chunk are made between the tile products of this one, which run on a
//   unit of their own. Scaling sums between products instead of after them takes 1.2 times as long.
// * Vectors are divided into blocks whose inputs stay in L2 while they meet all rows.
//
// Per group of 128 inputs, 16 vectors and 64 rows: 8 tile products (128 cycles), and for the sums
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
constexpr size_t kMaxBlockBytes = 3 << 17;  // of inputs
constexpr size_t kMaxChunk = 4;             // groups of a chunk
constexpr size_t kChunkDepth = 4;           // tiles of its panels, unless a group has more

// Multiplied at once: a tile of vectors and two panels, 64 rows; or two tiles and one panel.
constexpr size_t kUnitPanels = 2;
constexpr size_t kUnitSums = 2 * kUnitPanels * kTileSums;  // of a group

// Tile products of a group.
size_t depth_of(const Grouping& grouping, int k) {
  return divide_up(GroupedSteps(grouping, k, kTileSteps).of(0).steps(), kTileSteps);
}

size_t chunk_of(size_t depth) {
  const size_t groups = kChunkDepth / depth;
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
  const GroupedSteps steps(grouping, k, kTileSteps);
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

// Of each thread: its tile configuration; the panels of two parts; the sums of a tile of vectors
// and the scales of a part, (panel, group, kPanelRows); the float sums, (panel, vector,
// kPanelRows).
size_t panels_bytes(size_t depth) {
  return (kUnitPanels * chunk_of(depth) * depth * kTileSteps + kMaxBundleSteps) * kStepBytes;
}

size_t per_thread_bytes(const Grouping& grouping, int k, size_t count) {
  const size_t depth = depth_of(grouping, k), chunk = chunk_of(depth);
  return sizeof(TileConfig) + 2 * panels_bytes(depth) + chunk * kUnitSums * sizeof(int32_t) +
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
        unit_panels_(tiles_ == 2 ? 1 : kUnitPanels),
        groups_(group_count(scales.grouping)),
        depth_(depth_of(scales.grouping, k)),
        chunk_(chunk_of(depth_)),
        digits_(digit_bytes(patterns, k, 0)),
        steps_(scales.grouping, k, kTileSteps),
        inputs_(static_cast<const char*>(shared)),
        panels_(static_cast<char*>(per_thread)),
        sums_(reinterpret_cast<int32_t*>(panels_ + 2 * panels_bytes(depth_))),
        chunk_scales_(reinterpret_cast<float*>(sums_ + chunk_ * kUnitSums)),
        floats_(chunk_scales_ + kUnitPanels * chunk_ * kPanelRows),
        y_(y),
        stride_(stride) {}

  void run() {
    if (unit_panels_ == 1) return run_block(0, tiles_);
    const size_t blocks = divide_up(tiles_ * tile_bytes(), kMaxBlockBytes);
    for (size_t b = 0; b < blocks; b++) {
      const size_t first = b * tiles_ / blocks, last = (b + 1) * tiles_ / blocks;
      if (first < last) run_block(first, last);
    }
  }

 private:
  // A chunk of groups of one or two panels, which are made bundle by bundle.
  struct Part {
    size_t row, panels, group, groups;
    char* memory;
    size_t next_panel, next_group, next_bundle;  // to be made
  };

  size_t chunks() const { return divide_up(groups_, chunk_); }
  size_t units() const { return divide_up(rows_.last - rows_.first, unit_panels_ * kPanelRows); }
  size_t parts() const { return units() * chunks(); }
  size_t tile_bytes() const { return groups_ * depth_ * height_ * kTileBytes; }
  size_t panel_bytes() const { return depth_ * kTileSteps * kStepBytes; }  // of a group

  Part part(size_t i) const {
    const size_t group = i % chunks() * chunk_;
    const size_t row = rows_.first + i / chunks() * unit_panels_ * kPanelRows;
    const size_t panels = i < parts() ? min(unit_panels_, (rows_.last - row) / kPanelRows) : 0;
    return {
        row, panels, group, min(chunk_, groups_ - group), panels_ + i % 2 * panels_bytes(depth_),
        0,   0,      0};
  }

  char* panel(const Part& part, size_t p, size_t g) const {
    return part.memory + (p * part.groups + g) * panel_bytes();
  }

  void make_some(Part& part, size_t bundles) const {
    for (; bundles > 0 && part.next_panel < part.panels; bundles--) {
      const PanelRows rows(rows_, part.row + part.next_panel * kPanelRows);
      const size_t group = part.group + part.next_group;
      steps_.template make<K>(group, part.next_bundle, rows.words, rows.height, rows_.columns,
                              digits_, panel(part, part.next_panel, part.next_group));
      if (++part.next_bundle < steps_.of(group).bundles()) continue;
      part.next_bundle = 0;
      if (++part.next_group < part.groups) continue;
      part.next_group = 0;
      part.next_panel++;
    }
  }
  void make_all(Part& part) const { make_some(part, ~size_t(0)); }

  // Tiles [first, last) of vectors. Meanwhile the panels of the next part are made, one bundle
  // every places / bundles tile products, so that they are complete by the last.
  void run_block(size_t first, size_t last) {
    Part next = part(0);
    make_all(next);
    for (size_t i = 0; i < parts(); i++) {
      const Part here = next;
      next = part(i + 1);
      for (size_t p = 0; p < here.panels; p++)
        for (size_t g = 0; g < here.groups; g++)
          load_scales(scales_, here.group + g, here.row - rows_.first + p * kPanelRows,
                      chunk_scales_ + (p * chunk_ + g) * kPanelRows);
      written_before_tiles_read();
      const size_t places = here.groups * depth_ * (last - first);
      const size_t bundles = next.panels * next.groups * steps_.of(0).bundles();
      size_t due = 0;
      const auto make_next = [&] {
        for (due += bundles; due >= places; due -= places) make_some(next, 1);
      };
      if (unit_panels_ == 1) {
        multiply_two_tiles(here, make_next);
        for (size_t t = first; t < last; t++) add_tile(here, 0, t, t);
      } else {
        for (size_t t = first; t < last; t++) {
          here.panels == 2 ? multiply_tile<true>(here, t, make_next)
                           : multiply_tile<false>(here, t, make_next);
          for (size_t p = 0; p < here.panels; p++) add_tile(here, p, t, p);
        }
      }
      make_all(next);
    }
  }

  // Panels of a chunk times a tile of vectors.
  template <bool kTwo, class MakeNext>
  void multiply_tile(const Part& part, size_t tile, const MakeNext& make_next) const {
    int32_t* sums = sums_;
    for (size_t g = 0; g < part.groups; g++, sums += kUnitSums) {
      const char* x =
          inputs_ + tile * tile_bytes() + (part.group + g) * depth_ * height_ * kTileBytes;
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
        make_next();
      }
      store_sums<kTwo>(sums);
    }
  }

  // One panel of a chunk times the only two tiles of vectors.
  template <class MakeNext>
  void multiply_two_tiles(const Part& part, const MakeNext& make_next) const {
    int32_t* sums = sums_;
    for (size_t g = 0; g < part.groups; g++, sums += kUnitSums) {
      const char* x = inputs_ + (part.group + g) * depth_ * height_ * kTileBytes;
      const char* rows = panel(part, 0, g);
      begin_sums<true, int32_t>(nullptr);
      const size_t depth = divide_up(steps_.of(part.group + g).steps(), kTileSteps);
      for (size_t d = 0; d < depth; d++, x += height_ * kTileBytes) {
        _tile_loadd(VECTORS_0, x, kTileBytes);
        _tile_loadd(ROWS_0, rows, kStepBytes);
        _tile_dpbssd(SUMS_00, VECTORS_0, ROWS_0);
        _tile_loadd(ROWS_1, rows + kTileBytes, kStepBytes);
        _tile_dpbssd(SUMS_01, VECTORS_0, ROWS_1);
        make_next();
        _tile_loadd(VECTORS_1, x + tile_bytes(), kTileBytes);
        _tile_dpbssd(SUMS_10, VECTORS_1, ROWS_0);
        _tile_dpbssd(SUMS_11, VECTORS_1, ROWS_1);
        rows += kTileSteps * kStepBytes;
        make_next();
      }
      store_sums<true>(sums);
    }
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
  const size_t count_, tiles_, height_, unit_panels_, groups_, depth_, chunk_;
  const DigitBytes digits_;
  const GroupedSteps steps_;
  const char* inputs_;
  char* panels_;  // of two parts: one is multiplied, the other is made
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
