// Many int8 vectors at once, packing w16 with scales of groups of columns, AMX: int32 sums of each
// group in tiles (panels_amx.cpp), then sum * (scale * step) in float32.
//
// * 2 x 2 tiles of sums, of 32 vectors and a panel of 32 rows. A chunk of groups is multiplied,
// then
//   its sums are scaled and added to the float sums, which are then read and written once a chunk.
// * A tile product runs on its own unit. Between the products of a chunk, the sums of the chunk
//   before are scaled, and the panels of the next are made, some of each after every product.
// * Vectors are divided into blocks whose inputs stay in L2 while they meet all rows.
//
// Per group of 128 inputs, 32 vectors and 32 rows: 8 tile products (128 cycles); for the sums 64
// vcvtdq2ps, 64 vmulps, 64 vfmadd, 64 stores by tile and 16 of floats; half of that with as many
// vectors. Making the panel is 64 operations for 12 blocks (panels.h).
//
// Bound: |sum| <= 128 in_features < 2^31, as in_features < 2^24. The float sums are those of
// vector/w16_grouped_avx512.cpp, bit by bit.
#include "batch/grouped_panels.h"
#include "batch/tiles.h"

namespace rsr {
namespace {

constexpr size_t kMinVectors = 5;
constexpr size_t kMaxVectors = 256;
constexpr size_t kMaxBlockBytes = 1 << 20;  // of inputs
constexpr size_t kMaxChunk = 4;             // groups of a chunk
constexpr size_t kChunkDepth = 8;           // tile products of a chunk, unless a group has more
static_assert(kTileSteps * kStepInputs == kTileBytes);

constexpr size_t kPairSums = 4 * kTileSums;  // of two tiles of vectors and a panel

// Tile products of a group.
size_t depth_of(const Grouping& grouping, int k) {
  return divide_up(
      GroupSteps(min(grouping.blocks, grouping.blocks_per_group), grouping.padding, k, kTileSteps)
          .steps(),
      kTileSteps);
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

// Of each thread: its tile configuration; of two chunks the panels, the sums of two tiles of
// vectors and the scales; and the float sums of a panel, (vector, kPanelRows).
size_t panels_bytes(size_t depth) {
  return (chunk_of(depth) * depth * kTileSteps + kMaxBundleSteps) * kStepBytes;
}

size_t per_thread_bytes(const Grouping& grouping, int k, size_t count) {
  const size_t chunk = chunk_of(depth_of(grouping, k));
  return sizeof(TileConfig) + 2 * panels_bytes(depth_of(grouping, k)) +
         2 * chunk * (kPairSums * sizeof(int32_t) + kPanelRows * sizeof(float)) +
         count * kPanelRows * sizeof(float);
}

// Sums of a chunk of groups, of two tiles of vectors, to be scaled and added.
struct Sums {
  const int32_t* tiles;  // (group, tile of vectors, half of the rows, vector, 16 rows)
  const float* scales;   // (group, kPanelRows)
  const float* steps;    // (vector, all groups), or null
  size_t groups, all_groups;
  size_t vectors, height;  // of a tile of vectors
  bool is_first, is_last;  // chunk
  float* floats;           // (vector, kPanelRows)
  float* y;
  size_t stride;
  size_t done = 0;  // vectors
};

template <int G, bool kSteps>
inline void scale_some(Sums& a, size_t count) {
  __m512 scales[G][2];
  for (int g = 0; g < G; g++)
    for (int h = 0; h < 2; h++) scales[g][h] = _mm512_loadu_ps(a.scales + g * kPanelRows + h * 16);
  for (const size_t stop = min(a.vectors, a.done + count); a.done < stop; a.done++) {
    const size_t v = a.done, tile = v >= a.height;
    const int32_t* sums = a.tiles + tile * 2 * kTileSums + (v - tile * a.height) * kTileRows;
    float* floats = a.floats + v * kPanelRows;
    __m512 low = _mm512_setzero_ps(), high = low;
    if (!a.is_first) low = _mm512_loadu_ps(floats), high = _mm512_loadu_ps(floats + 16);
#pragma GCC unroll 4
    for (int g = 0; g < G; g++, sums += kPairSums) {
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

template <bool kSteps>
void scale_some(Sums& a, size_t count) {
  constexpr void (*kScale[kMaxChunk])(Sums&, size_t) = {
      scale_some<1, kSteps>, scale_some<2, kSteps>, scale_some<3, kSteps>, scale_some<4, kSteps>};
  if (a.done < a.vectors) kScale[a.groups - 1](a, count);
}

template <int K>
class GroupedProduct {
 public:
  GroupedProduct(const RankedRows& rows, const GroupScales& scales, const int16_t* patterns, int k,
                 const void* shared, size_t count, void* per_thread, float* y, size_t stride)
      : rows_(rows),
        scales_(scales),
        k_(k),
        count_(count),
        height_(tile_height(count)),
        groups_(group_count(scales.grouping)),
        depth_(depth_of(scales.grouping, k)),
        chunk_(chunk_of(depth_)),
        digits_(digit_bytes(patterns, k, 0)),
        steps_(scales.grouping, k, kTileSteps),
        inputs_(static_cast<const char*>(shared)),
        panels_(static_cast<char*>(per_thread)),
        sums_(reinterpret_cast<int32_t*>(panels_ + 2 * panels_bytes(depth_))),
        chunk_scales_(reinterpret_cast<float*>(sums_ + 2 * chunk_ * kPairSums)),
        floats_(chunk_scales_ + 2 * chunk_ * kPanelRows),
        y_(y),
        stride_(stride) {}

  void run() {
    const size_t tiles = tiles_of(count_), pairs = divide_up(tiles, 2);
    const size_t pair_bytes = 2 * tile_bytes();
    const size_t blocks = divide_up(pairs * pair_bytes, kMaxBlockBytes);
    for (size_t b = 0; b < blocks; b++) {
      const size_t begin = 2 * (b * pairs / blocks), end = 2 * ((b + 1) * pairs / blocks);
      if (begin < end) run_block(begin, min(end, tiles));
    }
  }

 private:
  // A chunk of groups of a panel.
  struct Part {
    size_t row, group, groups;
    size_t next_group, next_bundle = 0;  // to be made
  };

  size_t chunks() const { return divide_up(groups_, chunk_); }
  size_t parts() const { return (rows_.last - rows_.first) / kPanelRows * chunks(); }

  Part part(size_t i) const {
    const size_t group = i % chunks() * chunk_;
    return {rows_.first + i / chunks() * kPanelRows, group, min(chunk_, groups_ - group), group};
  }

  size_t tile_bytes() const { return groups_ * depth_ * height_ * kTileBytes; }
  char* panel(size_t part) const { return panels_ + part % 2 * panels_bytes(depth_); }
  size_t panel_bytes() const { return depth_ * kTileSteps * kStepBytes; }

  void make_some(size_t i, Part& part, size_t bundles) const {
    const PanelRows rows(rows_, part.row);
    for (; bundles > 0 && part.next_group < part.group + part.groups; bundles--) {
      steps_.template make<K>(part.next_group, part.next_bundle, rows.words, rows.height,
                              rows_.columns, digits_,
                              panel(i) + (part.next_group - part.group) * panel_bytes());
      if (++part.next_bundle < steps_.of(part.next_group).bundles()) continue;
      part.next_bundle = 0;
      part.next_group++;
    }
  }

  // Tiles [first, last) of vectors.
  void run_block(size_t first, size_t last) {
    Part here = part(0);
    make_some(0, here, ~size_t(0));
    Sums before = {};  // of the last two tiles
    size_t turn = 0;
    for (size_t i = 0; i < parts(); i++) {
      here = part(i);
      float* scales = chunk_scales_ + i % 2 * chunk_ * kPanelRows;
      for (size_t g = 0; g < here.groups; g++)
        load_scales(scales_, here.group + g, here.row - rows_.first, scales + g * kPanelRows);
      Part next = i + 1 < parts() ? part(i + 1) : Part{};
      written_before_tiles_read();
      // After each of `places` products of a pair: bundles of the next part, vectors of `before`.
      const size_t places = here.groups * depth_;
      const size_t make_places = places * divide_up(last - first, 2);
      const size_t bundles = next.groups * steps_.of(0).bundles();
      size_t due = 0;
      for (size_t t = first; t < last; t += 2, turn++) {
        const size_t scale = divide_up(before.vectors, places);
        const auto between = [&] {
          add_some(before, scale);
          for (due += bundles; due >= make_places; due -= make_places) make_some(i + 1, next, 1);
        };
        int32_t* sums = sums_ + turn % 2 * chunk_ * kPairSums;
        t + 1 < last ? multiply_pair<true>(i, here, t, sums, between)
                     : multiply_pair<false>(i, here, t, sums, between);
        add_some(before, before.vectors);
        const size_t v = t * height_;
        before = {sums,
                  scales,
                  scales_.steps ? scales_.steps + v * groups_ + here.group : nullptr,
                  here.groups,
                  groups_,
                  min(2 * height_, count_ - v),
                  height_,
                  here.group == 0,
                  here.group + here.groups == groups_,
                  floats_ + v * kPanelRows,
                  y_ + v * stride_ + here.row - rows_.first,
                  stride_};
      }
      make_some(i + 1, next, ~size_t(0));
    }
    add_some(before, before.vectors);
  }

  void add_some(Sums& sums, size_t count) const {
    sums.steps ? scale_some<true>(sums, count) : scale_some<false>(sums, count);
  }

  // Panels of a chunk times one or two tiles of vectors. Calls between() after every product.
  template <bool kTwo, class Between>
  void multiply_pair(size_t i, const Part& part, size_t tile, int32_t* sums,
                     const Between& between) const {
    const char* panels = panel(i);
    for (size_t g = 0; g < part.groups; g++, sums += kPairSums, panels += panel_bytes()) {
      const char* x0 =
          inputs_ + tile * tile_bytes() + (part.group + g) * depth_ * height_ * kTileBytes;
      const char* x1 = x0 + tile_bytes();
      const char* p = panels;
      _tile_zero(SUMS_00);
      _tile_zero(SUMS_01);
      if (kTwo) {
        _tile_zero(SUMS_10);
        _tile_zero(SUMS_11);
      }
      const size_t depth = divide_up(steps_.of(part.group + g).steps(), kTileSteps);
      for (size_t d = 0; d < depth; d++, p += kTileSteps * kStepBytes) {
        _tile_loadd(ROWS_0, p, kStepBytes);
        _tile_loadd(VECTORS_0, x0 + d * height_ * kTileBytes, kTileBytes);
        _tile_dpbssd(SUMS_00, VECTORS_0, ROWS_0);
        _tile_loadd(ROWS_1, p + kTileBytes, kStepBytes);
        _tile_dpbssd(SUMS_01, VECTORS_0, ROWS_1);
        if (kTwo) {
          _tile_loadd(VECTORS_1, x1 + d * height_ * kTileBytes, kTileBytes);
          _tile_dpbssd(SUMS_10, VECTORS_1, ROWS_0);
          _tile_dpbssd(SUMS_11, VECTORS_1, ROWS_1);
        }
        between();
      }
      _tile_stored(SUMS_00, sums, kTileBytes);
      _tile_stored(SUMS_01, sums + kTileSums, kTileBytes);
      if (kTwo) {
        _tile_stored(SUMS_10, sums + 2 * kTileSums, kTileBytes);
        _tile_stored(SUMS_11, sums + 3 * kTileSums, kTileBytes);
      }
    }
  }

  const RankedRows& rows_;
  const GroupScales& scales_;
  const int k_;
  const size_t count_, height_, groups_, depth_, chunk_;
  const DigitBytes digits_;
  const GroupedSteps steps_;
  const char* inputs_;
  char* panels_;  // of two parts: one is multiplied, the other is made
  int32_t* sums_;
  float *chunk_scales_, *floats_;
  float* y_;
  size_t stride_;
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
