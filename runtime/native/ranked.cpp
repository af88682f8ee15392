#include "ranked.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "dispatch.h"
#include "parallel.h"

namespace rsr {
namespace {

// Word columns whose table entries, at most 128 k each, an int16 sum can take.
size_t flush_columns(int k) { return 32767 / (128 * k) / kRanksPerWord; }

// Scratch memory of the calling thread, kept from product to product.
constexpr size_t kMostScratch = 8 << 20;

struct Scratch {
  std::vector<char> tables, input;

  void* aligned_tables(size_t bytes) {
    if (tables.size() < bytes + 64) tables.resize(bytes + 64);
    return tables.data() + (64 - reinterpret_cast<uintptr_t>(tables.data()) % 64) % 64;
  }

  // x with zeros behind it, so that every column block has its k inputs.
  template <class X>
  const X* padded(const X* x, size_t n, size_t padded_n) {
    if (n == padded_n) return x;
    if (input.size() < padded_n * sizeof(X)) input.resize(padded_n * sizeof(X));
    X* copy = reinterpret_cast<X*>(input.data());
    std::memcpy(copy, x, n * sizeof(X));
    std::memset(copy + n, 0, (padded_n - n) * sizeof(X));
    return copy;
  }

  // What a rare, huge matrix needed is not kept for the life of the thread.
  void trim() {
    if (tables.size() + input.size() > kMostScratch) *this = Scratch();
  }
};

thread_local Scratch scratch;

// The part both data types share: strip(words, rows in the strip, first row, rows that are real).
template <class Strip>
void for_each_strip(const RankedIndex& a, const Strip& strip) {
  const size_t padded = a.padded_rows(), columns = a.word_columns();
  const size_t strips = (padded + kStripRows - 1) / kStripRows;
  parallel_for(strips, a.bytes(), [&](size_t begin, size_t end) {
    for (size_t s = begin; s < end; s++) {
      const size_t first = s * kStripRows;
      const size_t height = std::min<size_t>(kStripRows, padded - first);
      strip(a.words + first * columns, static_cast<int>(height), first,
            std::min(height, a.rows - first));
    }
  });
}

}  // namespace

void multiply_i8(const RankedIndex& a, const int8_t* x, size_t count, int32_t* y) {
  const KernelTable& kernel = kernels();
  const size_t columns = a.word_columns(), blocks = columns * kRanksPerWord;
  void* tables = scratch.aligned_tables(blocks * kTableBytesI8);
  for (size_t i = 0; i < count; i++, x += a.columns, y += a.rows) {
    kernel.grow_i8(scratch.padded(x, a.columns, blocks * a.k), a.patterns, a.k, blocks, tables);
    for_each_strip(a, [&](const uint16_t* words, int height, size_t first, size_t real) {
      alignas(64) int32_t sums[kStripRows];
      kernel.lookup_i8(words, height, columns, tables, flush_columns(a.k), sums);
      std::memcpy(y + first, sums, real * sizeof(int32_t));
    });
  }
  scratch.trim();
}

void multiply_f32(const RankedIndex& a, const float* x, size_t count, float* y) {
  const KernelTable& kernel = kernels();
  const size_t columns = a.word_columns(), blocks = columns * kRanksPerWord;
  void* tables = scratch.aligned_tables(blocks * kTableBytesF32);
  float patterns[5 * kPatterns];  // k <= 5, as B^k <= 32
  std::copy(a.patterns, a.patterns + a.k * kPatterns, patterns);
  for (size_t i = 0; i < count; i++, x += a.columns, y += a.rows) {
    kernel.grow_f32(scratch.padded(x, a.columns, blocks * a.k), patterns, a.k, blocks, tables);
    for_each_strip(a, [&](const uint16_t* words, int height, size_t first, size_t real) {
      alignas(64) float sums[kStripRows];
      kernel.lookup_f32(words, height, columns, tables, sums);
      for (size_t r = 0; r < real; r++)
        y[first + r] = sums[r] * a.scale[(first + r) / a.scale_rows];
    });
  }
  scratch.trim();
}

}  // namespace rsr
