// Products of many vectors at once, one vector in each lane: the sums of a block under all
// patterns are 64-byte entries, a row's rank picks one of them, and adding it serves all lanes.
//
// A few columns are done at a time, so that their tables stay in the L1 cache while many rows run
// over them. Ranks are decoded for a strip at a time into bytes rank * 8: times 8, which
// addressing does for free, that is the offset of an entry.
//
// Included by the files of instruction sets from AVX2 on. All is in an anonymous namespace: each
// of them compiles its own.
#pragma once
#include <immintrin.h>

#include "kernels.h"

namespace rsr {
namespace {

constexpr size_t kEntryBytes = 64, kTableBytes = kPatterns * kEntryBytes;
constexpr size_t kTileRows = 1024;   // rows that run over tables once grown
constexpr size_t kRankStride = 128;  // bytes between the ranks of two blocks: rows of a strip

inline __m256i load_256(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}

inline void store_256(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

struct W16 {
  static constexpr size_t kStripRows = 128, kBlocks = 3, kCellBytes = 2;
  static constexpr size_t kTogether = 5;  // columns: 15 tables of 27 entries, 26 KB

  static int entry(int pattern) { return pattern; }

  // The ranks of rows [row, row + count) of one word column, for its three blocks.
  static void decode(const uint8_t* column, size_t, size_t row, size_t count, uint8_t* ranks) {
    const uint16_t* words = reinterpret_cast<const uint16_t*>(column) + row;
    const __m256i mask = _mm256_set1_epi16(31 << 3);
    for (size_t r = 0; r < count; r += 32) {
      const __m256i w0 = load_256(words + r), w1 = load_256(words + r + 16);
      const __m256i in_word[3][2] = {{_mm256_slli_epi16(w0, 3), _mm256_slli_epi16(w1, 3)},
                                     {_mm256_srli_epi16(w0, 2), _mm256_srli_epi16(w1, 2)},
                                     {_mm256_srli_epi16(w0, 7), _mm256_srli_epi16(w1, 7)}};
      for (int i = 0; i < 3; i++) {
        const __m256i bytes = _mm256_packus_epi16(_mm256_and_si256(in_word[i][0], mask),
                                                  _mm256_and_si256(in_word[i][1], mask));
        store_256(ranks + i * kRankStride + r, _mm256_permute4x64_epi64(bytes, 0xd8));
      }
    }
  }
};

// Entries: 16 by magnitude, then the same negative.
struct N4S1 {
  static constexpr size_t kStripRows = 64, kBlocks = 8, kCellBytes = 5;
  static constexpr size_t kTogether = 2;  // columns: 16 tables of 28 entries, 28 KB

  static int entry(int pattern) { return pattern >= 13 ? pattern - 13 : 16 + 13 - pattern; }

  static void decode(const uint8_t* unit, size_t height, size_t row, size_t count, uint8_t* ranks) {
    const __m256i magnitude = _mm256_set1_epi8(15 << 3), sign = _mm256_set1_epi8(-128);
    for (size_t r = row; r < row + count; r += 32, ranks += 32) {
      __m256i signs = load_256(unit + 4 * height + r);
      for (int i = 0; i < 4; i++) {
        const __m256i v = load_256(unit + i * height + r);
        const __m256i halves[2] = {_mm256_slli_epi16(v, 3), _mm256_srli_epi16(v, 1)};
        for (int h = 0; h < 2; h++) {
          const __m256i bytes = _mm256_or_si256(_mm256_and_si256(halves[h], magnitude),
                                                _mm256_and_si256(signs, sign));
          store_256(ranks + (2 * i + h) * kRankStride, bytes);
          signs = _mm256_add_epi8(signs, signs);
        }
      }
    }
  }
};

// Lanes: the arithmetic of one entry, defined by the including file. kLanes vectors; Value, of
// Number; load, store, add, subtract, times(Value, Pattern); kWidens: Number is int16, whose sums
// take `flush` columns (kernels.h) and are then added to int32.
template <class Lanes, class Packing>
struct TableBatch {
  using X = typename Lanes::X;
  using Pattern = typename Lanes::Pattern;
  using Y = typename Lanes::Y;
  using Number = typename Lanes::Number;
  using Value = typename Lanes::Value;
  static constexpr size_t kLanes = Lanes::kLanes;
  static constexpr size_t kBlocksTogether = Packing::kTogether * Packing::kBlocks;

  // What a thread keeps to itself.
  struct Own {
    alignas(64) char tables[kBlocksTogether * kTableBytes];
    uint8_t ranks[kBlocksTogether * kRankStride];
    Number tile[kTileRows * kLanes];
    Y sums[Lanes::kWidens ? kTileRows * kLanes : 1];
  };

  static size_t own_bytes(size_t, int, size_t) { return sizeof(Own); }

  // x with the lanes of an input side by side: (vectors / kLanes, inputs, kLanes).
  static size_t shared_bytes(size_t columns, int k, size_t count) {
    const size_t groups = (count + kLanes - 1) / kLanes;
    return groups * columns * Packing::kBlocks * k * kLanes * sizeof(Number);
  }

  static void prepare(const X* x, const Pattern*, int k, size_t columns, size_t count, size_t first,
                      size_t last, void* shared) {
    const size_t inputs = columns * Packing::kBlocks * k;
    if (last == count) last = (count + kLanes - 1) / kLanes * kLanes;  // the rest: zeros
    for (size_t v = first; v < last; v += 16) {
      Number* to = static_cast<Number*>(shared) + v / kLanes * kLanes * inputs + v % kLanes;
      const size_t stop = v + 16 < last ? v + 16 : last;
      for (size_t i = 0; i < inputs; i++)
        for (size_t j = v; j < stop; j++)
          to[i * kLanes + j - v] = j < count ? static_cast<Number>(x[j * inputs + i]) : Number(0);
    }
  }

  // Whether the patterns are all of three ternary digits, in order.
  static bool is_ternary(const Pattern* patterns, int k) {
    if (k != 3) return false;
    for (int p = 0; p < 27; p++)
      if (patterns[p] != p / 9 - 1 || patterns[kPatterns + p] != p / 3 % 3 - 1 ||
          patterns[2 * kPatterns + p] != p % 3 - 1)
        return false;
    return true;
  }

  // RSR++: level by level, the last digit first, as the kernels for one vector add. Zero times x
  // is x - x: NaN if x is not finite.
  static void grow_ternary(const Number* x, char* table) {
    Value level[3][3];  // x[d] times -1, 0, 1
    for (int d = 0; d < 3; d++) {
      level[d][2] = Lanes::load(x + d * kLanes);
      level[d][1] = Lanes::subtract(level[d][2], level[d][2]);
      level[d][0] = Lanes::subtract(level[d][1], level[d][2]);
    }
    for (int p = 0; p < 9; p++) {
      const Value last_two = Lanes::add(level[2][p % 3], level[1][p / 3]);
      for (int d = 0; d < 3; d++)
        Lanes::store(table + Packing::entry(9 * d + p) * kEntryBytes,
                     Lanes::add(last_two, level[0][d]));
    }
  }

  static void grow_any(const Number* x, const Pattern* patterns, int k, char* table) {
    for (int p = 0; p < kPatterns; p++) {
      Value sum =
          Lanes::times(Lanes::load(x + (k - 1) * kLanes), patterns[(k - 1) * kPatterns + p]);
      for (int d = k - 1; d-- > 0;)
        sum =
            Lanes::add(sum, Lanes::times(Lanes::load(x + d * kLanes), patterns[d * kPatterns + p]));
      Lanes::store(table + p * kEntryBytes, sum);
    }
  }

  // Adds `blocks` entries to each row's sums; kBlocks: as many where that is known.
  template <size_t kBlocks>
  static void add_rows(const char* tables, const uint8_t* ranks, size_t blocks, size_t count,
                       Number* tile) {
    for (size_t r = 0; r < count; r++, tile += kLanes) {
      Value sum = Lanes::load(tile);
      const char* t = tables;
      for (size_t b = 0; b < (kBlocks ? kBlocks : blocks); b++, t += kTableBytes)
        sum = Lanes::add(sum, Lanes::load(t + 8 * size_t{ranks[b * kRankStride + r]}));
      Lanes::store(tile, sum);
    }
  }

  // The rows [top, bottom) times one group of vectors.
  static void multiply_tile(const RankedRows& a, size_t top, size_t bottom, const Pattern* patterns,
                            int k, bool ternary, const Number* x, Own& own) {
    const size_t rows = bottom - top;
    for (size_t i = 0; i < rows * kLanes; i++) own.tile[i] = 0;
    if (Lanes::kWidens)
      for (size_t i = 0; i < rows * kLanes; i++) own.sums[i] = 0;
    size_t since = 0;  // columns since the sums were widened
    for (size_t g = 0, columns; g < a.columns; g += columns) {
      columns = a.columns - g < Packing::kTogether ? a.columns - g : Packing::kTogether;
      if (Lanes::kWidens && since + columns > a.flush) {
        if (since) Lanes::widen(own.tile, own.sums, rows * kLanes);
        since = 0;
        if (columns > a.flush) columns = a.flush;
      }
      since += columns;
      const size_t blocks = columns * Packing::kBlocks;
      for (size_t b = 0; b < blocks; b++, x += k * kLanes)
        ternary ? grow_ternary(x, own.tables + b * kTableBytes)
                : grow_any(x, patterns, k, own.tables + b * kTableBytes);
      for (size_t r = top, stop; r < bottom; r = stop) {
        const size_t start = r / Packing::kStripRows * Packing::kStripRows;
        const size_t left = a.end - start;
        const size_t height = left < Packing::kStripRows ? left : Packing::kStripRows;
        stop = start + height < bottom ? start + height : bottom;
        const uint8_t* column = a.index + (start * a.columns + g * height) * Packing::kCellBytes;
        for (size_t j = 0; j < columns; j++, column += height * Packing::kCellBytes)
          Packing::decode(column, height, r - start, stop - r,
                          own.ranks + j * Packing::kBlocks * kRankStride);
        Number* tile = own.tile + (r - top) * kLanes;
        if (blocks == kBlocksTogether)
          add_rows<kBlocksTogether>(own.tables, own.ranks, blocks, stop - r, tile);
        else
          add_rows<0>(own.tables, own.ranks, blocks, stop - r, tile);
      }
    }
    if (Lanes::kWidens) Lanes::widen(own.tile, own.sums, rows * kLanes);
  }

  static void multiply(const RankedRows& a, const Pattern* patterns, int k, const void* shared,
                       size_t count, void* memory, Y* y, size_t stride) {
    Own& own = *static_cast<Own*>(memory);
    const size_t inputs = a.columns * Packing::kBlocks * k;
    const bool ternary = is_ternary(patterns, k);
    for (size_t i = 0; i < sizeof(own.tables); i++) own.tables[i] = 0;  // ranks of no pattern
    for (size_t first = 0; first < count; first += kLanes) {
      const Number* x = static_cast<const Number*>(shared) + first * inputs;
      const size_t vectors = count - first < kLanes ? count - first : kLanes;
      for (size_t top = a.first; top < a.last; top += kTileRows) {
        const size_t bottom = a.last - top < kTileRows ? a.last : top + kTileRows;
        multiply_tile(a, top, bottom, patterns, k, ternary, x, own);
        const Y* sums = Lanes::result(own.tile, own.sums);
        for (size_t i = 0; i < vectors; i++)
          for (size_t r = top; r < bottom; r++)
            y[(first + i) * stride + r - a.first] = sums[(r - top) * kLanes + i];
      }
    }
  }

  static constexpr BatchKernels<X, Pattern, Y> kernels(size_t least, size_t most) {
    return {least, most, shared_bytes, own_bytes, prepare, multiply};
  }
};

}  // namespace
}  // namespace rsr
