// Many vectors at once, packing w16 with scales of groups of columns: tables of sums, one vector
// per lane (tables.h).
//
// Internal linkage: each file that includes this compiles its own (table.h), after
// decoding_<isa>.h and before scaling_<isa>.h.
#pragma once
#include <cstring>

#include "batch/tables.h"

namespace rsr {
namespace {

// A unit of packing n4s1 with groups.
struct GroupUnit {
  size_t group, unit;    // of its group
  size_t first, blocks;  // its first block, counted from the first of the index; 1 to 8 blocks

  // unit: of the group of blocks [begin, end).
  GroupUnit(size_t group, size_t unit, size_t begin, size_t end)
      : group(group),
        unit(unit),
        first(begin + unit * N4S1::kBlocks),
        blocks(min(N4S1::kBlocks, end - first)) {}
};

using UnitBytes = uint8_t[N4S1::kCellBytes * N4S1::kStripRows];

// A whole unit with the blocks of a short one, and zeros.
inline const uint8_t* completed(const uint8_t* unit, size_t height, size_t blocks, UnitBytes& to) {
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

// Decodes the ranks of rows [r, stop) of a strip in one unit.
template <int kShift>
inline void decode_unit(const RankedRows& a, const GroupUnit& unit, size_t r, size_t stop,
                        UnitBytes& bytes, N4S1Ranks::Ranks* ranks) {
  const Grouping& grouping = a.grouping;
  const size_t whole = N4S1::group_bytes(grouping.blocks_per_group);
  const size_t row_bytes = grouping.blocks / grouping.blocks_per_group * whole +
                           N4S1::group_bytes(grouping.blocks % grouping.blocks_per_group);
  const size_t strip = r / N4S1::kStripRows * N4S1::kStripRows;
  const size_t height = strip_height<N4S1>(a.end - strip);
  const uint8_t* from =
      a.index + strip * row_bytes + (unit.group * whole + unit.unit * N4S1::kCellBytes) * height;
  if (unit.blocks < N4S1::kBlocks) from = completed(from, height, unit.blocks, bytes);
  N4S1Ranks::decode<kShift>(from, height, r - strip, stop - r, ranks);
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
    UnitBytes unit;
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

  // Adds the scaled sums of a group and clears them (scaling_<isa>.h).
  template <bool kWide>
  static void add_scaled(size_t rows, PerThread& scratch);

  // Adds columns [g, g + columns) of packing w16, of which blocks [begin, end) are wanted.
  static void add_columns(const Tile& tile, W16Ranks, size_t, size_t begin, size_t end, size_t g,
                          size_t columns, PerThread& scratch) {
    Product::add_columns(
        tile.a, tile.top, tile.bottom, g, columns, 1, scratch.tables, scratch.ranks,
        [&](size_t) {
          build_tables(tile, g * W16::kBlocks, columns * W16::kBlocks, begin, end, scratch.tables);
        },
        [&](size_t) { return scratch.tile; });
  }

  // Adds unit g of the group of blocks [begin, end) of packing n4s1.
  static void add_columns(const Tile& tile, N4S1Ranks, size_t group, size_t begin, size_t end,
                          size_t g, size_t, PerThread& scratch) {
    const GroupUnit unit(group, g, begin, end);
    build_tables(tile, unit.first, unit.blocks, begin, end, scratch.tables);
    for (size_t r = tile.top, stop; r < tile.bottom; r = stop) {
      stop = Product::strip_end(r, tile.bottom);
      decode_unit<Lanes::kShift>(tile.a, unit, r, stop, scratch.unit, scratch.ranks);
      int16_t* sums = scratch.tile + (r - tile.top) * kLanes;
      unit.blocks == N4S1::kBlocks
          ? Product::template add_rows<1>(scratch.tables, scratch.ranks, 1, stop - r, sums)
          : add_short_unit(scratch.tables, scratch.ranks, unit.blocks, stop - r, sums);
    }
  }

  static void add_short_unit(const char* tables, const N4S1Ranks::Ranks* ranks, size_t blocks,
                             size_t count, int16_t* tile) {
    const auto load = [&](size_t r) { return Lanes::load(tile + r * kLanes); };
    const auto store = [&](size_t r, typename Lanes::Value sum) {
      Lanes::store(tile + r * kLanes, sum);
    };
    blocks == 3 ? Product::template add_column<3>(tables, ranks, 3, count, load, store)
                : Product::template add_column<0>(tables, ranks, blocks, count, load, store);
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
      for (size_t top = a.first, bottom; top < a.last; top = bottom) {
        bottom = Product::tile_end(top, a.last);
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
    return {min_vectors, Wide::kLanes, shared_bytes, per_thread_bytes, prepare,
            multiply,    16,           nullptr,      Narrow::kLanes};
  }
};

// float32. Where a group ends, its sums are scaled and added to the results, and new sums begin:
// for packing w16 anywhere among the columns whose tables are in L1, for n4s1 after a unit.
//
// Bound: as many additions as inputs, then a multiplication and an addition for each group.
template <class Lanes, class Packing>
struct GroupedFloatTableProduct {
  using Plain = TableProduct<Lanes, Packing>;
  using Value = typename Lanes::Value;
  using Ranks = typename Packing::Ranks;
  static constexpr size_t kLanes = Lanes::kLanes, kColumns = Plain::kColumns;
  static constexpr size_t kTableBytes = Plain::kTableBytes, kRows = Plain::kRows;

  struct PerThread {
    alignas(64) char tables[Plain::kBlocks * kTableBytes];
    typename Plain::TileRanks ranks;
    UnitBytes unit;
  };
  // Behind it, for each kLanes vectors of the pass, (row, kLanes):
  struct Sums {
    alignas(64) float tile[kTileRows * kLanes];  // of a group
    float results[kTileRows * kLanes];
  };
  static Sums* sums_of(PerThread& scratch) { return reinterpret_cast<Sums*>(&scratch + 1); }

  static size_t shared_bytes(const Grouping& grouping, int k, size_t count) {
    return Plain::shared_bytes(input_columns(grouping), k, count);
  }
  static size_t per_thread_bytes(const Grouping&, int, size_t count) {
    return sizeof(PerThread) + divide_up(count, kLanes) * sizeof(Sums);
  }

  // Columns of the inputs as `prepare` arranges them.
  static size_t input_columns(const Grouping& grouping) {
    return divide_up(grouping.blocks, Packing::kBlocks);
  }

  static void prepare(const float* x, const float* patterns, int k, size_t columns, const Grouping&,
                      size_t count, size_t first, size_t last, void* shared) {
    Plain::prepare(x, patterns, k, columns, count, first, last, shared);
  }

  // Rows [r, r + rows) of a tile.
  struct Rows {
    size_t r, rows;
    const Ranks* ranks;
    float *tile, *results;

    Value sum(size_t i) const { return Lanes::load(tile + i * kLanes); }
    void set_sum(size_t i, Value sum) const { Lanes::store(tile + i * kLanes, sum); }
    void add_result(size_t i, Value sum, float scale) const {
      float* to = results + i * kLanes;
      Lanes::store(to, Lanes::add(Lanes::load(to), Lanes::times(sum, scale)));
    }
  };

  // Adds kColumns columns to the sums of each row; the group ends after `end` of their blocks.
  template <size_t kEnd = 1>
  static void add_across(const Rows& rows, size_t end, const char* tables, const float* scales) {
    if constexpr (kEnd < Plain::kBlocks) {
      if (end > kEnd) return add_across<kEnd + 1>(rows, end, tables, scales);
    }
    for (size_t r = 0; r < rows.rows; r += kRows) {
      Value sums[kRows];
      for (size_t i = 0; i < kRows; i++) sums[i] = rows.sum(r + i);
      const char* t = tables;
#pragma GCC unroll 4
      for (size_t j = 0; j < kColumns; j++) {
        Ranks bytes[kRows];
        for (size_t i = 0; i < kRows; i++) bytes[i] = rows.ranks[j * Packing::kStripRows + r + i];
#pragma GCC unroll 3
        for (size_t b = 0; b < Packing::kBlocks; b++, t += kTableBytes) {
          for (size_t i = 0; i < kRows; i++) {
            sums[i] = Lanes::add(sums[i], Lanes::at(t, bytes[i] & 255));
            bytes[i] >>= 8;
          }
          if (j * Packing::kBlocks + b + 1 == kEnd)
            for (size_t i = 0; i < kRows; i++) {
              rows.add_result(r + i, sums[i], scales[r + i]);
              sums[i] = Value{};
            }
        }
      }
      for (size_t i = 0; i < kRows; i++) rows.set_sum(r + i, sums[i]);
    }
  }

  // Some blocks of a column, all of one group.
  struct Part {
    const Ranks* ranks;  // of the first row
    size_t skip, blocks;
    const char* tables;
  };

  // Adds the entries of some parts to the sums of each row. kEnds: then the group ends.
  template <bool kEnds>
  static void add_parts(const Rows& rows, const Part* parts, size_t size, const float* scales) {
    for (size_t r = 0; r < rows.rows; r++) {
      Value sum = rows.sum(r);
      for (size_t i = 0; i < size; i++) {
        Ranks bytes = parts[i].ranks[r] >> (8 * parts[i].skip);
        const char* t = parts[i].tables;
        for (size_t b = 0; b < parts[i].blocks; b++, t += kTableBytes, bytes >>= 8)
          sum = Lanes::add(sum, Lanes::at(t, bytes & 255));
      }
      if (kEnds) {
        rows.add_result(r, sum, scales[r]);
        sum = Value{};
      }
      rows.set_sum(r, sum);
    }
  }

  // Adds blocks [first, last) of packing w16, whose tables are there.
  static void add_columns(const RankedRows& a, const GroupScales& scales, size_t first, size_t last,
                          const Rows& rows, const char* tables) {
    alignas(64) float factors[Packing::kStripRows];
    const Grouping& grouping = scales.grouping;
    const size_t first_group = first / grouping.blocks_per_group;
    const size_t first_end = group_end(grouping, first_group * grouping.blocks_per_group);
    if (last - first == Plain::kBlocks && first_end <= last &&
        group_end(grouping, first_end) > last) {
      read_scales(scales, first_group, rows.r - a.first, rows.rows, factors);
      return add_across(rows, first_end - first, tables, factors);
    }
    for (size_t begin = first, end; begin < last; begin = end) {
      const size_t group = begin / grouping.blocks_per_group;
      const size_t group_stop = group_end(grouping, group * grouping.blocks_per_group);
      end = min(last, group_stop);
      if (end < group_stop && end - begin == Plain::kBlocks) {
        Plain::template add_rows<kColumns>(tables, rows.ranks, kColumns, rows.rows, rows.tile);
        continue;
      }
      Part parts[kColumns];
      size_t size = 0;
      for (size_t b = begin - first, next; b < end - first; b = next) {
        const size_t column = b / Packing::kBlocks;
        next = min(end - first, (column + 1) * Packing::kBlocks);
        parts[size++] = {rows.ranks + column * Packing::kStripRows, b % Packing::kBlocks, next - b,
                         tables + b * kTableBytes};
      }
      if (end < group_stop) {
        add_parts<false>(rows, parts, size, nullptr);
      } else {
        read_scales(scales, group, rows.r - a.first, rows.rows, factors);
        add_parts<true>(rows, parts, size, factors);
      }
    }
  }

  // Adds a unit of packing n4s1, whose tables are there. kKnown: its blocks, or 0 if unknown.
  template <size_t kKnown>
  static void add_unit(const RankedRows& a, const GroupScales& scales, const GroupUnit& unit,
                       bool ends, const Rows& rows, const char* tables) {
    const auto sum = [&](size_t r) { return unit.unit == 0 ? Value{} : rows.sum(r); };
    if (!ends)
      return Plain::template add_column<kKnown>(
          tables, rows.ranks, unit.blocks, rows.rows, sum,
          [&](size_t r, Value total) { rows.set_sum(r, total); });
    alignas(64) float factors[Packing::kStripRows];
    read_scales(scales, unit.group, rows.r - a.first, rows.rows, factors);
    Plain::template add_column<kKnown>(
        tables, rows.ranks, unit.blocks, rows.rows, sum,
        [&](size_t r, Value total) { rows.add_result(r, total, factors[r]); });
  }

  // Rows [top, bottom) of an index, times vectors; x holds kLanes at a time.
  struct Tile {
    const RankedRows& a;
    size_t top, bottom;
    const GroupScales& scales;
    const float *patterns, *x;
    int k;
    bool ternary;
    size_t sets, x_floats;  // of a set
    PerThread& scratch;

    // Makes the tables of blocks from `first` on, for each set, and calls add(rows) for each strip,
    // whose ranks decode(first row, one past the last, ranks) finds.
    template <class Decode, class Add>
    void add_blocks(size_t first, size_t blocks, const Decode& decode, const Add& add) const {
      Plain::for_sets(
          top, bottom, sets, scratch.ranks, decode,
          [&](size_t s) {
            Plain::build_tables(x + s * x_floats + first * k * kLanes, patterns, k, ternary, blocks,
                                scratch.tables);
          },
          [&](size_t s, size_t r, size_t stop, const Ranks* ranks) {
            Sums& sums = sums_of(scratch)[s];
            const size_t at = (r - top) * kLanes;
            add(Rows{r, stop - r, ranks, sums.tile + at, sums.results + at});
          });
    }
  };

  static void multiply_tile(const Tile& tile, W16Ranks) {
    const RankedRows& a = tile.a;
    const size_t blocks = tile.scales.grouping.blocks;
    for (size_t g = 0; g < a.columns; g += kColumns) {
      const size_t columns = min(a.columns - g, kColumns), first = g * W16::kBlocks;
      const size_t last = min(blocks, first + columns * W16::kBlocks);
      if (first >= last) return;
      tile.add_blocks(
          first, last - first,
          [&](size_t r, size_t stop, Ranks* to) { Plain::decode_rows(a, r, stop, g, columns, to); },
          [&](const Rows& rows) {
            add_columns(a, tile.scales, first, last, rows, tile.scratch.tables);
          });
    }
  }

  static void multiply_tile(const Tile& tile, N4S1Ranks) {
    const RankedRows& a = tile.a;
    const Grouping& grouping = tile.scales.grouping;
    for (size_t begin = 0, end, group = 0; begin < grouping.blocks; begin = end, group++) {
      end = group_end(grouping, begin);
      for (size_t g = 0; begin + g * N4S1::kBlocks < end; g++) {
        const GroupUnit unit(group, g, begin, end);
        const bool ends = unit.first + unit.blocks == end;
        tile.add_blocks(
            unit.first, unit.blocks,
            [&](size_t r, size_t stop, Ranks* to) {
              decode_unit<Lanes::kShift>(a, unit, r, stop, tile.scratch.unit, to);
            },
            [&](const Rows& rows) {
              const char* tables = tile.scratch.tables;
              if (unit.blocks == N4S1::kBlocks)
                add_unit<N4S1::kBlocks>(a, tile.scales, unit, ends, rows, tables);
              else if (unit.blocks == 3)  // groups of 32 and 128 columns
                add_unit<3>(a, tile.scales, unit, ends, rows, tables);
              else if (unit.blocks == 6)  // of 64 and 256
                add_unit<6>(a, tile.scales, unit, ends, rows, tables);
              else
                add_unit<0>(a, tile.scales, unit, ends, rows, tables);
            });
      }
    }
  }

  static void multiply(const RankedRows& a, const GroupScales& scales, const float* patterns, int k,
                       const void* shared, size_t count, void* memory, float* y, size_t stride) {
    PerThread& scratch = *static_cast<PerThread*>(memory);
    const float* x = static_cast<const float*>(shared);
    const size_t x_floats = a.columns * Packing::kBlocks * k * kLanes;
    const size_t sets = divide_up(count, kLanes);
    const bool ternary = Plain::is_ternary(patterns, k);
    std::memset(scratch.tables, 0, sizeof scratch.tables);  // for ranks that are no pattern
    for (size_t top = a.first, bottom; top < a.last; top = bottom) {
      bottom = Plain::tile_end(top, a.last);
      for (size_t s = 0; s < sets; s++) {
        Sums& sums = sums_of(scratch)[s];
        const size_t bytes = (bottom - top) * kLanes * sizeof(float);
        std::memset(sums.tile, 0, bytes);
        std::memset(sums.results, 0, bytes);
      }
      multiply_tile({a, top, bottom, scales, patterns, x, k, ternary, sets, x_floats, scratch},
                    Packing());
      for (size_t i = 0; i < count; i += kLanes)
        Plain::store_tile(sums_of(scratch)[i / kLanes].results, bottom - top,
                          min(count - i, kLanes), y + i * stride + top - a.first, stride);
    }
  }

  // sets: kLanes vectors each, of one pass: they share decoded ranks.
  static constexpr GroupedBatchKernel<float, float> kernel(size_t min_vectors, size_t sets = 1) {
    return {min_vectors, sets * kLanes, shared_bytes, per_thread_bytes, prepare, multiply,
            16,          nullptr,       kLanes};
  }
};

}  // namespace
}  // namespace rsr
