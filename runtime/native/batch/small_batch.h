// A few int8 vectors at once: the ranks are read and decoded once for a set of up to kSetVectors
// vectors. What remains for each vector is its lookups and additions.
//
// Tables are stored in the order in which they are read: sets of vectors, then columns, then the
// vectors of the set. A run of columns_per_widen columns keeps the tables of a set in L1 and the
// index of kPassRows rows in L2, and widens each int16 sum once.
//
// Internal linkage: each file that includes this compiles its own (table.h).
#pragma once
#include "table.h"

namespace rsr {
namespace {

constexpr size_t kSetVectors = 4;
constexpr size_t kPassRows = 2048;
constexpr size_t kGroupedPassRows = 1024;  // whose sums and index of a group stay in L2

// The vectors of a pass are divided into sets of at most `most`, as evenly as possible. Calls
// body(first vector, vectors) for each set.
template <class Body>
void for_sets(size_t count, size_t most, const Body& body) {
  const size_t sets = divide_up(count, most);
  for (size_t set = 0, begin = 0, end; set < sets; set++, begin = end) {
    end = (set + 1) * count / sets;
    body(begin, end - begin);
  }
}

// Calls body(vector, first vector of its set, vectors of the set) for the vectors [first, last).
template <class Body>
void for_vectors(size_t count, size_t most, size_t first, size_t last, const Body& body) {
  for_sets(count, most, [&](size_t begin, size_t width) {
    for (size_t i = begin; i < begin + width; i++)
      if (first <= i && i < last) body(i, begin, width);
  });
}

// A run of columns of some rows of a strip, to be added to the sums of a set of vectors. The first
// run stores instead.
struct Run {
  const uint8_t* column;
  const uint8_t* ahead;  // read next: the hardware prefetcher cannot predict it from short runs
  size_t height, columns;
  const char* tables;
  bool is_first;
  int32_t* y;     // of the first row and vector
  size_t stride;  // from one vector to the next
};

// A Kernel defines Packing; kRowBytes, from one row to the next; kTableBytes, from the tables of
// one vector of a set to those of the next; kColumnTableBytes, all tables of a column and vector;
// build_tables(x, patterns, k, columns, vectors of the set, tables); rows_at_once(rows left in the
// strip, vectors); and lookup(rows at once, vectors, has_few_patterns), which returns a function of
// a Run.
template <class Kernel>
struct SmallBatch {
  using Packing = typename Kernel::Packing;
  static constexpr size_t kColumnTableBytes = Kernel::kColumnTableBytes;

  static size_t shared_bytes(size_t columns, int, size_t count) {
    return count * columns * kColumnTableBytes;
  }
  static size_t per_thread_bytes(size_t, int, size_t) { return 0; }

  static void prepare(const int8_t* x, const int16_t* patterns, int k, size_t columns, size_t count,
                      size_t first, size_t last, void* shared) {
    for_vectors(count, kSetVectors, first, last, [&](size_t i, size_t begin, size_t width) {
      char* t = static_cast<char*>(shared) + begin * columns * kColumnTableBytes +
                (i - begin) * Kernel::kTableBytes;
      Kernel::build_tables(x + i * columns * Packing::kBlocks * k, patterns, k, columns, width, t);
    });
  }

  static void multiply(const RankedRows& a, const int16_t*, int, const void* shared, size_t count,
                       void*, int32_t* y, size_t stride) {
    const char* tables = static_cast<const char*>(shared);
    constexpr size_t kStripRows = Packing::kStripRows;
    const auto height_at = [&](size_t r) {
      return strip_height<Packing>(a.end - r / kStripRows * kStripRows);
    };
    const auto column_at = [&](size_t r, size_t c) {
      return a.index +
             (r / kStripRows * kStripRows * a.columns + c * height_at(r)) * Packing::kCellBytes +
             r % kStripRows * Kernel::kRowBytes;
    };
    for (size_t top = a.first; top < a.last; top += kPassRows) {
      const size_t bottom = min(a.last, top + kPassRows);
      for (size_t c = 0, run; c < a.columns; c += run) {
        run = min(a.columns - c, a.columns_per_widen);
        for_sets(count, kSetVectors, [&](size_t begin, size_t width) {
          const char* t = tables + (begin * a.columns + c * width) * kColumnTableBytes;
          for (size_t r = top, step; r < bottom; r += step) {
            step = Kernel::rows_at_once(min(bottom - r, height_at(r) - r % kStripRows), width);
            const uint8_t* column = column_at(r, c);
            const size_t below = r + kStripRows;
            const bool goes_on = below < bottom && height_at(below) == height_at(r);
            const uint8_t* ahead = begin > 0             ? column
                                   : goes_on             ? column_at(below, c)
                                   : c + run < a.columns ? column_at(top, c + run)
                                                         : column;
            Kernel::lookup(step, width,
                           a.has_few_patterns)({column, ahead, height_at(r), run, t, c == 0,
                                                y + begin * stride + (r - a.first), stride});
          }
        });
      }
    }
  }

  static constexpr BatchKernel<int8_t, int16_t, int32_t> kBatch = {
      2, 16, shared_bytes, per_thread_bytes, prepare, multiply, 1};
};

// Blocks [begin, end), a group, of some rows of a strip, times a set of vectors: their sums are
// scaled and added to y. The first group stores instead.
struct GroupRun {
  const uint8_t *index, *ahead;  // at(group, first row) of the Layout; the same of what is read
                                 // next, or of these rows if that is in the caches
  size_t height, begin, end, columns_per_widen;
  const char* tables;  // (block, vector)
  const char* scales;
  bool is_half, is_first;
  float steps[kSetVectors];
  float* y;       // of the first row and vector
  size_t stride;  // from one vector to the next
};

// The same with scales of groups of columns, for kernels that keep the sums of a group in
// registers.
//
// A Kernel defines Packing; kMinVectors; kVectors, of a set; kTableBytes, of a block and vector;
// kLineRows, rows whose bytes share a cache line; build_tables(x, patterns, k, blocks, bytes from
// one table to the next, tables); a Layout of the index, whose at(group, row) is where a GroupRun
// begins; rows_at_once(rows left in the strip, vectors); and lookup(rows at once, vectors), which
// returns a function of a GroupRun.
template <class Kernel>
struct SmallGroupedBatch {
  using Packing = typename Kernel::Packing;
  static constexpr size_t kTableBytes = Kernel::kTableBytes;

  // Tables: (set, block, vector of the set).
  static size_t shared_bytes(const Grouping& grouping, int, size_t count) {
    return grouping.blocks * kTableBytes * count;
  }
  static size_t per_thread_bytes(const Grouping&, int, size_t) { return 0; }

  static void prepare(const int8_t* x, const int16_t* patterns, int k, size_t columns,
                      const Grouping& grouping, size_t count, size_t first, size_t last,
                      void* shared) {
    for_vectors(count, Kernel::kVectors, first, last, [&](size_t i, size_t begin, size_t width) {
      char* t = static_cast<char*>(shared) + (begin * grouping.blocks + i - begin) * kTableBytes;
      Kernel::build_tables(x + i * columns * Packing::kBlocks * k, patterns, k, grouping.blocks,
                           width * kTableBytes, t);
    });
  }

  static void multiply(const RankedRows& a, const GroupScales& scales, const int16_t*, int,
                       const void* shared, size_t count, void*, float* y, size_t stride) {
    constexpr size_t kStripRows = Packing::kStripRows;
    const Grouping& grouping = scales.grouping;
    const typename Kernel::Layout layout(a, grouping);
    const size_t groups = group_count(grouping);
    for (size_t top = a.first; top < a.last; top += kGroupedPassRows) {
      const size_t bottom = min(a.last, top + kGroupedPassRows);
      for (size_t g = 0, b = 0, end; g < groups; g++, b = end) {
        end = group_end(grouping, b);
        for_sets(count, Kernel::kVectors, [&](size_t begin, size_t width) {
          GroupRun run;
          run.begin = b, run.end = end;
          run.columns_per_widen = a.columns_per_widen;
          run.tables = static_cast<const char*>(shared) +
                       (begin * grouping.blocks + b * width) * kTableBytes;
          run.is_half = scales.is_half, run.is_first = g == 0;
          run.stride = stride;
          for (size_t i = 0; i < width; i++) run.steps[i] = step_of(scales, begin + i, g);
          for (size_t r = top, step; r < bottom; r += step) {
            const size_t strip = r / kStripRows * kStripRows, below = r + kStripRows;
            run.height = strip_height<Packing>(a.end - strip);
            step = Kernel::rows_at_once(min(bottom, strip + run.height) - r, width);
            run.index = run.ahead = layout.at(g, r);
            const bool is_new_line = r == top || (r - strip) % Kernel::kLineRows == 0;
            if (begin == 0 && is_new_line && below < bottom &&
                strip_height<Packing>(a.end - strip - kStripRows) == run.height)
              run.ahead = layout.at(g, below);
            run.scales = scales_at(scales, g, r - a.first);
            run.y = y + begin * stride + r - a.first;
            Kernel::lookup(step, width)(run);
          }
        });
      }
    }
  }

  static constexpr GroupedBatchKernel<int8_t, int16_t> kBatch = {
      Kernel::kMinVectors, 16, shared_bytes, per_thread_bytes, prepare, multiply, 1};
};

}  // namespace
}  // namespace rsr
