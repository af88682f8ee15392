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

// The vectors of a pass are divided into sets of at most kSetVectors, as evenly as possible.
constexpr size_t sets_of(size_t count) { return divide_up(count, kSetVectors); }
constexpr size_t set_begin(size_t set, size_t count) { return set * count / sets_of(count); }

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
    for (size_t set = 0; set < sets_of(count); set++) {
      const size_t begin = set_begin(set, count), end = set_begin(set + 1, count);
      for (size_t i = begin; i < end; i++) {
        if (i < first || i >= last) continue;
        char* t = static_cast<char*>(shared) + begin * columns * kColumnTableBytes +
                  (i - begin) * Kernel::kTableBytes;
        Kernel::build_tables(x + i * columns * Packing::kBlocks * k, patterns, k, columns,
                             end - begin, t);
      }
    }
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
        for (size_t set = 0; set < sets_of(count); set++) {
          const size_t begin = set_begin(set, count), width = set_begin(set + 1, count) - begin;
          const char* t = tables + (begin * a.columns + c * width) * kColumnTableBytes;
          for (size_t r = top, step; r < bottom; r += step) {
            step = Kernel::rows_at_once(min(bottom - r, height_at(r) - r % kStripRows), width);
            const uint8_t* column = column_at(r, c);
            const size_t below = r + kStripRows;
            const bool goes_on = below < bottom && height_at(below) == height_at(r);
            const uint8_t* ahead = set > 0               ? column
                                   : goes_on             ? column_at(below, c)
                                   : c + run < a.columns ? column_at(top, c + run)
                                                         : column;
            Kernel::lookup(step, width,
                           a.has_few_patterns)({column, ahead, height_at(r), run, t, c == 0,
                                                y + begin * stride + (r - a.first), stride});
          }
        }
      }
    }
  }

  static constexpr BatchKernel<int8_t, int16_t, int32_t> kBatch = {
      2, 16, shared_bytes, per_thread_bytes, prepare, multiply, 1};
};

}  // namespace
}  // namespace rsr
