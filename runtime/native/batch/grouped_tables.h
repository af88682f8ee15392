// Many vectors at once, packing w16 with scales of groups of columns: tables of sums, one vector
// per lane (tables.h).
//
// Internal linkage: each file that includes this compiles its own (table.h). Needs AVX2.
#pragma once
#include <cstring>

#include "batch/tables.h"

namespace rsr {
namespace {

// The scales of a group and `rows` rows, a multiple of 8, the first of which is `first` of those
// wanted.
inline void read_scales(const GroupScales& all, size_t group, size_t first, size_t rows,
                        float* scales) {
  const size_t entry = entry_bytes(all);
  const char* from = static_cast<const char*>(all.data) + (group * all.stride + first) * entry;
  for (size_t r = 0; r < rows; r += 8)
    _mm256_storeu_ps(scales + r, eight_scales(from + r * entry, all.is_half));
}

// int8.
//
// * A group is summed in int16, then each sum becomes sum * (scale * step) in float32: per row and
//   16 vectors, 4 conversions, 2 multiplications and 2 multiply-adds beside the 16 lookups and
//   additions of 48 inputs.
// * A word column of two groups is looked up for both. Tables of the other group's blocks are zero.
//
// Bound: an int16 sum takes columns_per_widen columns (packing.h), then it is widened to int32. The
// float sums are those of one vector (vector/w16_avx2.cpp), bit by bit.
//
// Lanes: of int16.
template <class Lanes, class Packing>
struct GroupedTableProduct {
  using Product = TableProduct<Lanes, Packing>;
  static constexpr size_t kLanes = Lanes::kLanes;

  struct PerThread {
    alignas(64) char tables[Product::kBlocks * Product::kTableBytes];
    typename Packing::Ranks ranks[Product::kColumns * Packing::kStripRows];
    uint8_t unit[N4S1::kCellBytes * N4S1::kStripRows];
    int16_t tile[kTileRows * kLanes];
    int32_t wide[kTileRows * kLanes];  // of groups that an int16 sum does not take
    float sums[kTileRows * kLanes];
    float scales[kTileRows];  // of a group
    float steps[kLanes];
  };

  // Rows [top, bottom) of an index, times the vectors that x holds.
  struct Tile {
    const RankedRows& a;
    size_t top, bottom;
    const int16_t* patterns;
    int k;
    bool ternary;
    const int16_t* x;
  };

  // Tables of `blocks` blocks from `first` on, of which [begin, end) are wanted.
  static void build_tables(const Tile& tile, size_t first, size_t blocks, size_t begin, size_t end,
                           char* tables) {
    for (size_t b = first; b < first + blocks; b++, tables += Product::kTableBytes) {
      const int16_t* inputs = tile.x + b * tile.k * kLanes;
      if (b < begin || b >= end)
        std::memset(tables, 0, Product::kTableBytes);
      else
        tile.ternary ? Product::build_ternary_table(inputs, tables)
                     : Product::build_table(inputs, tile.patterns, tile.k, tables);
    }
  }

  static void load_scales(const GroupScales& scales, size_t group, size_t row, size_t rows,
                          size_t first, size_t vectors, PerThread& scratch) {
    read_scales(scales, group, row, rows, scratch.scales);
    for (size_t i = 0; i < kLanes; i++)
      scratch.steps[i] = i < vectors ? step_of(scales, first + i, group) : 0;
  }

  // Adds the scaled sums of a group and clears them.
  template <bool kWide>
  static void add_scaled(size_t rows, PerThread& scratch) {
    __m256 steps[kLanes / 8];
    for (size_t i = 0; i < kLanes / 8; i++) steps[i] = _mm256_loadu_ps(scratch.steps + 8 * i);
    for (size_t r = 0; r < rows; r++) {
      const __m256 scale = _mm256_broadcast_ss(scratch.scales + r);
      for (size_t i = 0; i < kLanes / 8; i++) {
        const size_t at = r * kLanes + 8 * i;
        __m128i* eight = reinterpret_cast<__m128i*>(scratch.tile + at);
        const __m256i sum =
            kWide ? load(scratch.wide + at) : _mm256_cvtepi16_epi32(_mm_loadu_si128(eight));
        if (kWide)
          store(scratch.wide + at, _mm256_setzero_si256());
        else
          _mm_storeu_si128(eight, _mm_setzero_si128());
        _mm256_storeu_ps(scratch.sums + at,
                         _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(scale, steps[i]),
                                         _mm256_loadu_ps(scratch.sums + at)));
      }
    }
  }

  // Adds columns [g, g + columns) of packing w16, of which blocks [begin, end) are wanted.
  static void add_columns(const Tile& tile, W16Ranks, size_t, size_t begin, size_t end, size_t g,
                          size_t columns, PerThread& scratch) {
    build_tables(tile, g * W16::kBlocks, columns * W16::kBlocks, begin, end, scratch.tables);
    Product::add_columns(tile.a, tile.top, tile.bottom, g, columns, scratch.tables, scratch.ranks,
                         scratch.tile);
  }

  // Adds unit g of the group of blocks [begin, end) of packing n4s1.
  static void add_columns(const Tile& tile, N4S1Ranks, size_t group, size_t begin, size_t end,
                          size_t g, size_t, PerThread& scratch) {
    const RankedRows& a = tile.a;
    const Grouping& grouping = a.grouping;
    const size_t first = begin + g * N4S1::kBlocks, blocks = min(N4S1::kBlocks, end - first);
    build_tables(tile, first, N4S1::kBlocks, begin, end, scratch.tables);
    const size_t whole = N4S1::group_bytes(grouping.blocks_per_group);
    const size_t row_bytes = grouping.blocks / grouping.blocks_per_group * whole +
                             N4S1::group_bytes(grouping.blocks % grouping.blocks_per_group);
    for (size_t r = tile.top, stop; r < tile.bottom; r = stop) {
      const size_t strip = r / N4S1::kStripRows * N4S1::kStripRows;
      const size_t height = strip_height<N4S1>(a.end - strip);
      stop = min(strip + height, tile.bottom);
      const uint8_t* unit =
          a.index + strip * row_bytes + (group * whole + g * N4S1::kCellBytes) * height;
      if (blocks < N4S1::kBlocks) unit = completed(unit, height, blocks, scratch.unit);
      N4S1Ranks::decode<Lanes::kShift>(unit, height, r - strip, stop - r, scratch.ranks);
      Product::template add_rows<1>(scratch.tables, scratch.ranks, 1, stop - r,
                                    scratch.tile + (r - tile.top) * kLanes);
    }
  }

  // A whole unit with the blocks of a short one, and zeros.
  static const uint8_t* completed(const uint8_t* unit, size_t height, size_t blocks, uint8_t* to) {
    const size_t signs = N4S1::unit_bytes(blocks) - 1;  // the vector with the signs
    std::memset(to, 0, N4S1::kCellBytes * height);
    std::memcpy(to, unit, signs * height);
    for (size_t r = 0; r < height; r++) {
      const uint8_t byte = unit[signs * height + r];
      if (signs * 2 < blocks) to[signs * height + r] = byte & 15;
      to[N4S1::kSignVector * height + r] = static_cast<uint8_t>(byte & ~(255 >> blocks));
    }
    return to;
  }

  static void multiply_tile(const Tile& tile, const GroupScales& scales, size_t vector,
                            size_t vectors, PerThread& scratch) {
    constexpr bool kIsW16 = std::is_same_v<Packing, W16Ranks>;
    const size_t rows = tile.bottom - tile.top, most = tile.a.columns_per_widen;
    std::memset(scratch.tile, 0, rows * kLanes * sizeof(int16_t));
    std::memset(scratch.wide, 0, rows * kLanes * sizeof(int32_t));
    std::memset(scratch.sums, 0, rows * kLanes * sizeof(float));
    for (size_t begin = 0, end, group = 0; begin < scales.grouping.blocks; begin = end, group++) {
      end = group_end(scales.grouping, begin);
      // Word columns, or units of the group.
      const size_t start = kIsW16 ? begin / W16::kBlocks : 0;
      const size_t stop = divide_up(kIsW16 ? end : end - begin, Packing::kBlocks);
      const bool is_wide = stop - start > most;
      size_t since = 0;  // columns since the last widening
      for (size_t g = start, columns; g < stop; g += columns, since += columns) {
        columns = kIsW16 ? min(stop - g, min(Product::kColumns, most)) : 1;
        if (since + columns > most) {
          widen(scratch.tile, scratch.wide, rows * kLanes);
          since = 0;
        }
        add_columns(tile, Packing(), group, begin, end, g, columns, scratch);
      }
      load_scales(scales, group, tile.top - tile.a.first, rows, vector, vectors, scratch);
      if (is_wide) {
        widen(scratch.tile, scratch.wide, rows * kLanes);
        add_scaled<true>(rows, scratch);
      } else {
        add_scaled<false>(rows, scratch);
      }
    }
  }

  static void multiply(const RankedRows& a, const GroupScales& scales, const int16_t* patterns,
                       int k, const void* shared, size_t count, void* memory, float* y,
                       size_t stride) {
    PerThread& scratch = *static_cast<PerThread*>(memory);
    const size_t inputs = a.columns * Packing::kBlocks * k;
    const bool ternary = Product::is_ternary(patterns, k);
    std::memset(scratch.tables, 0, sizeof scratch.tables);  // for ranks that are no pattern
    for (size_t first = 0; first < count; first += kLanes) {
      const int16_t* x = static_cast<const int16_t*>(shared) + first * inputs;
      const size_t vectors = min(count - first, kLanes);
      for (size_t top = a.first; top < a.last; top += kTileRows) {
        const size_t bottom = min(a.last, top + kTileRows);
        multiply_tile({a, top, bottom, patterns, k, ternary, x}, scales, first, vectors, scratch);
        for (size_t i = 0; i < vectors; i++)
          for (size_t r = top; r < bottom; r++)
            y[(first + i) * stride + r - a.first] = scratch.sums[(r - top) * kLanes + i];
      }
    }
  }

  static size_t shared_bytes(const Grouping& grouping, int k, size_t count) {
    return Product::shared_bytes(divide_up(grouping.blocks, Packing::kBlocks), k, count);
  }
};

// The narrow product up to as many vectors as it has lanes, the wide one for more.
template <class Narrow, class Wide>
struct GroupedTables {
  static size_t shared_bytes(const Grouping& grouping, int k, size_t count) {
    return (count <= Narrow::kLanes ? Narrow::shared_bytes : Wide::shared_bytes)(grouping, k,
                                                                                 count);
  }
  static size_t per_thread_bytes(const Grouping&, int, size_t count) {
    return count <= Narrow::kLanes ? sizeof(typename Narrow::PerThread)
                                   : sizeof(typename Wide::PerThread);
  }
  static void prepare(const int8_t* x, const int16_t* patterns, int k, size_t columns,
                      const Grouping&, size_t count, size_t first, size_t last, void* shared) {
    (count <= Narrow::kLanes ? Narrow::Product::prepare : Wide::Product::prepare)(
        x, patterns, k, columns, count, first, last, shared);
  }
  static void multiply(const RankedRows& rows, const GroupScales& scales, const int16_t* patterns,
                       int k, const void* shared, size_t count, void* per_thread, float* y,
                       size_t stride) {
    (count <= Narrow::kLanes ? Narrow::multiply : Wide::multiply)(rows, scales, patterns, k, shared,
                                                                  count, per_thread, y, stride);
  }

  static constexpr GroupedBatchKernel<int8_t, int16_t> kernel(size_t min_vectors) {
    return {min_vectors, Wide::kLanes, shared_bytes, per_thread_bytes, prepare, multiply};
  }
};

// float32. Where a group ends among
// the columns whose tables are in L1, the sums up to there are scaled and added to the results, and
// new sums begin.
//
// Bound: as many additions as inputs, then a multiplication and an addition for each group.
template <class Lanes>
struct GroupedFloatTableProduct {
  using Plain = TableProduct<Lanes, W16Ranks>;
  using Value = typename Lanes::Value;
  static constexpr size_t kLanes = Lanes::kLanes, kColumns = Plain::kColumns;

  struct PerThread : Plain::PerThread {  // the tile has the sums of a group
    float results[kTileRows * kLanes];
    float scales[W16::kStripRows];
  };

  static size_t shared_bytes(const Grouping& grouping, int k, size_t count) {
    return Plain::shared_bytes(divide_up(grouping.blocks, W16::kBlocks), k, count);
  }
  static size_t per_thread_bytes(const Grouping&, int, size_t) { return sizeof(PerThread); }

  static void prepare(const float* x, const float* patterns, int k, size_t columns, const Grouping&,
                      size_t count, size_t first, size_t last, void* shared) {
    Plain::prepare(x, patterns, k, columns, count, first, last, shared);
  }

  // Adds kColumns columns to the sums of each row; the group ends after `end` of their blocks.
  template <size_t kEnd = 1>
  static void add_across(size_t end, const char* tables, const uint32_t* ranks, size_t count,
                         const float* scales, float* tile, float* results) {
    if constexpr (kEnd < Plain::kBlocks) {
      if (end > kEnd) return add_across<kEnd + 1>(end, tables, ranks, count, scales, tile, results);
    }
    for (size_t r = 0; r < count; r++, tile += kLanes, results += kLanes) {
      Value sum = Lanes::load(tile);
      const char* t = tables;
#pragma GCC unroll 4
      for (size_t j = 0; j < kColumns; j++) {
        uint32_t bytes = ranks[j * W16::kStripRows + r];
#pragma GCC unroll 3
        for (size_t b = 0; b < W16::kBlocks; b++, t += Plain::kTableBytes, bytes >>= 8) {
          sum = Lanes::add(sum, Lanes::load(t + 8 * size_t{bytes & 255}));
          if (j * W16::kBlocks + b + 1 == kEnd) {
            Lanes::store(results, Lanes::add(Lanes::load(results), Lanes::times(sum, scales[r])));
            sum = Value{};
          }
        }
      }
      Lanes::store(tile, sum);
    }
  }

  // Some blocks of a column, all of one group.
  struct Part {
    const uint32_t* ranks;  // of the first row
    size_t skip, blocks;
    const char* tables;
  };

  // Adds the entries of some parts to the sums of each row. kEnds: then the group ends.
  template <bool kEnds>
  static void add_parts(const Part* parts, size_t size, size_t count, const float* scales,
                        float* tile, float* results) {
    for (size_t r = 0; r < count; r++, tile += kLanes, results += kLanes) {
      Value sum = Lanes::load(tile);
      for (size_t i = 0; i < size; i++) {
        uint32_t bytes = parts[i].ranks[r] >> (8 * parts[i].skip);
        const char* t = parts[i].tables;
        for (size_t b = 0; b < parts[i].blocks; b++, t += Plain::kTableBytes, bytes >>= 8)
          sum = Lanes::add(sum, Lanes::load(t + 8 * size_t{bytes & 255}));
      }
      if (kEnds) {
        Lanes::store(results, Lanes::add(Lanes::load(results), Lanes::times(sum, scales[r])));
        sum = Value{};
      }
      Lanes::store(tile, sum);
    }
  }

  // Adds blocks [first, last), whose tables and ranks of rows [r, stop) are in `scratch`.
  static void add_rows(const RankedRows& a, const GroupScales& scales, size_t first, size_t last,
                       size_t r, size_t stop, size_t top, PerThread& scratch) {
    const Grouping& grouping = scales.grouping;
    float* tile = scratch.tile + (r - top) * kLanes;
    float* results = scratch.results + (r - top) * kLanes;
    const size_t first_group = first / grouping.blocks_per_group;
    const size_t first_end = group_end(grouping, first_group * grouping.blocks_per_group);
    if (last - first == Plain::kBlocks && first_end <= last &&
        group_end(grouping, first_end) > last) {
      read_scales(scales, first_group, r - a.first, stop - r, scratch.scales);
      return add_across(first_end - first, scratch.tables, scratch.ranks, stop - r, scratch.scales,
                        tile, results);
    }
    for (size_t begin = first, end; begin < last; begin = end) {
      const size_t group = begin / grouping.blocks_per_group;
      const size_t group_stop = group_end(grouping, group * grouping.blocks_per_group);
      end = min(last, group_stop);
      if (end < group_stop && end - begin == kColumns * W16::kBlocks) {
        Plain::template add_rows<kColumns>(scratch.tables, scratch.ranks, kColumns, stop - r, tile);
        continue;
      }
      Part parts[kColumns];
      size_t size = 0;
      for (size_t b = begin - first, next; b < end - first; b = next) {
        const size_t column = b / W16::kBlocks;
        next = min(end - first, (column + 1) * W16::kBlocks);
        parts[size++] = {scratch.ranks + column * W16::kStripRows, b % W16::kBlocks, next - b,
                         scratch.tables + b * Plain::kTableBytes};
      }
      if (end < group_stop) {
        add_parts<false>(parts, size, stop - r, nullptr, tile, results);
      } else {
        read_scales(scales, group, r - a.first, stop - r, scratch.scales);
        add_parts<true>(parts, size, stop - r, scratch.scales, tile, results);
      }
    }
  }

  static void multiply(const RankedRows& a, const GroupScales& scales, const float* patterns, int k,
                       const void* shared, size_t count, void* memory, float* y, size_t stride) {
    PerThread& scratch = *static_cast<PerThread*>(memory);
    const size_t inputs = a.columns * W16::kBlocks * k;
    const bool ternary = Plain::is_ternary(patterns, k);
    for (size_t i = 0; i < sizeof(scratch.tables); i++)
      scratch.tables[i] = 0;  // for ranks that are no pattern
    for (size_t i = 0; i < count; i += kLanes)
      for (size_t top = a.first; top < a.last; top += kTileRows) {
        const size_t bottom = min(a.last, top + kTileRows);
        const float* x = static_cast<const float*>(shared) + i * inputs;
        for (size_t j = 0; j < (bottom - top) * kLanes; j++)
          scratch.tile[j] = scratch.results[j] = 0;
        for (size_t g = 0; g < a.columns; g += kColumns) {
          const size_t columns = min(a.columns - g, kColumns), first = g * W16::kBlocks;
          const size_t last = min(scales.grouping.blocks, first + columns * W16::kBlocks);
          Plain::build_tables(x + first * k * kLanes, patterns, k, ternary, last - first,
                              scratch.tables);
          for (size_t r = top, stop; r < bottom; r = stop) {
            stop = Plain::strip_end(r, bottom);
            Plain::decode_rows(a, r, stop, g, columns, scratch.ranks);
            add_rows(a, scales, first, last, r, stop, top, scratch);
          }
        }
        Plain::store_tile(scratch.results, bottom - top, min(count - i, kLanes),
                          y + i * stride + top - a.first, stride);
      }
  }

  static constexpr GroupedBatchKernel<float, float> kernel(size_t min_vectors) {
    return {min_vectors, kLanes, shared_bytes, per_thread_bytes, prepare, multiply};
  }
};

}  // namespace
}  // namespace rsr
