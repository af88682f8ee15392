// Many int8 vectors at once, packing w16 with scales of groups of columns: tables of sums, one
// vector per lane (tables.h).
//
// * A group is summed in int16, then each sum becomes sum * (scale * step) in float32: per row and
//   16 vectors, 4 conversions, 2 multiplications and 2 multiply-adds beside the 16 lookups and
//   additions of 48 inputs.
// * A word column of two groups is looked up for both. Tables of the other group's blocks are zero.
//
// Bound: an int16 sum takes columns_per_widen columns (packing.h), then it is widened to int32. The
// float sums are those of one vector (vector/w16_avx2.cpp), bit by bit.
//
// Internal linkage: each file that includes this compiles its own (table.h). Needs AVX2.
#pragma once
#include <cstring>

#include "batch/tables.h"

namespace rsr {
namespace {

// Lanes: of int16.
template <class Lanes>
struct GroupedTableProduct {
  using Product = TableProduct<Lanes, W16Ranks>;
  static constexpr size_t kLanes = Lanes::kLanes;

  struct PerThread {
    alignas(64) char tables[Product::kBlocks * Product::kTableBytes];
    W16Ranks::Ranks ranks[Product::kColumns * W16::kStripRows];
    int16_t tile[kTileRows * kLanes];
    int32_t wide[kTileRows * kLanes];  // of groups that an int16 sum does not take
    float sums[kTileRows * kLanes];
    float scales[kTileRows];  // of a group
    float steps[kLanes];
  };

  // Tables of columns [g, g + columns), of which blocks [begin, end) are wanted.
  static void build_tables(const int16_t* x, const int16_t* patterns, int k, bool ternary, size_t g,
                           size_t columns, size_t begin, size_t end, char* tables) {
    for (size_t b = g * W16::kBlocks; b < (g + columns) * W16::kBlocks;
         b++, tables += Product::kTableBytes) {
      const int16_t* inputs = x + b * k * kLanes;
      if (b < begin || b >= end)
        std::memset(tables, 0, Product::kTableBytes);
      else
        ternary ? Product::build_ternary_table(inputs, tables)
                : Product::build_table(inputs, patterns, k, tables);
    }
  }

  static void load_scales(const GroupScales& scales, size_t group, size_t row, size_t rows,
                          size_t first, size_t vectors, PerThread& scratch) {
    const size_t entry = entry_bytes(scales);
    const char* from =
        static_cast<const char*>(scales.data) + (group * scales.stride + row) * entry;
    for (size_t r = 0; r < rows; r += 8)
      _mm256_storeu_ps(scratch.scales + r, eight_scales(from + r * entry, scales.is_half));
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

  // Rows [top, bottom) times the vectors from `first` on, which x holds.
  static void multiply_tile(const RankedRows& a, const GroupScales& scales, size_t top,
                            size_t bottom, const int16_t* patterns, int k, bool ternary,
                            const int16_t* x, size_t first, size_t vectors, PerThread& scratch) {
    const size_t rows = bottom - top;
    std::memset(scratch.tile, 0, rows * kLanes * sizeof(int16_t));
    std::memset(scratch.wide, 0, rows * kLanes * sizeof(int32_t));
    std::memset(scratch.sums, 0, rows * kLanes * sizeof(float));
    for (size_t begin = 0, end, group = 0; begin < scales.grouping.blocks; begin = end, group++) {
      end = group_end(scales.grouping, begin);
      const size_t stop = divide_up(end, W16::kBlocks);
      const bool is_wide = stop - begin / W16::kBlocks > a.columns_per_widen;
      size_t since = 0;  // columns since the last widening
      for (size_t g = begin / W16::kBlocks, columns; g < stop; g += columns, since += columns) {
        columns = min(stop - g, min(Product::kColumns, a.columns_per_widen));
        if (since + columns > a.columns_per_widen) {
          widen(scratch.tile, scratch.wide, rows * kLanes);
          since = 0;
        }
        build_tables(x, patterns, k, ternary, g, columns, begin, end, scratch.tables);
        Product::add_columns(a, top, bottom, g, columns, scratch.tables, scratch.ranks,
                             scratch.tile);
      }
      load_scales(scales, group, top - a.first, rows, first, vectors, scratch);
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
    const size_t inputs = a.columns * W16::kBlocks * k;
    const bool ternary = Product::is_ternary(patterns, k);
    std::memset(scratch.tables, 0, sizeof scratch.tables);  // for ranks that are no pattern
    for (size_t first = 0; first < count; first += kLanes) {
      const int16_t* x = static_cast<const int16_t*>(shared) + first * inputs;
      const size_t vectors = min(count - first, kLanes);
      for (size_t top = a.first; top < a.last; top += kTileRows) {
        const size_t bottom = min(a.last, top + kTileRows);
        multiply_tile(a, scales, top, bottom, patterns, k, ternary, x, first, vectors, scratch);
        for (size_t i = 0; i < vectors; i++)
          for (size_t r = top; r < bottom; r++)
            y[(first + i) * stride + r - a.first] = scratch.sums[(r - top) * kLanes + i];
      }
    }
  }

  static size_t shared_bytes(const Grouping& grouping, int k, size_t count) {
    return Product::shared_bytes(divide_up(grouping.blocks, W16::kBlocks), k, count);
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

}  // namespace
}  // namespace rsr
