// Products of many vectors at once, one vector in each lane: the sums of a block under all
// patterns are entries of 32 or 64 bytes, a row's rank picks one of them, and adding it serves all
// lanes: 8 to 32 vectors.
//
// A few columns are done at a time, so that their tables stay in the L1 cache while many rows run
// over them. Ranks are decoded for a strip at a time into bytes: times 8, which addressing does
// for free, a byte is the offset of an entry. One load fetches those of a whole column, as loads
// are what limits this.
//
// Included by the files of instruction sets from AVX2 on. All is in an anonymous namespace: each
// of them compiles its own.
#pragma once
#include <immintrin.h>

#include "table.h"

namespace rsr {
namespace {

constexpr size_t kTileRows = 1024;  // rows that run over tables once grown

inline __m256i load_256(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}

inline void store_256(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

// A packing decodes rows [row, row + count) of one column into the ranks of its kBlocks blocks, a
// byte each, side by side in one Ranks per row. A byte is the entry << kShift.
struct W16 {
  static constexpr size_t kStripRows = 128, kBlocks = 3, kCellBytes = 2;
  static constexpr size_t kTogether = 2;  // columns: 6 tables of 27 entries
  using Ranks = uint32_t;

  static int entry(int pattern) { return pattern; }

  template <int kShift>
  static void decode(const uint8_t* column, size_t, size_t row, size_t count, Ranks* ranks) {
    const uint16_t* words = reinterpret_cast<const uint16_t*>(column) + row;
    const __m256i low = _mm256_set1_epi16(31 << kShift);
    const __m256i high = _mm256_slli_epi16(low, 8);
    for (size_t r = 0; r < count; r += 16) {
      const __m256i w = load_256(words + r);
      const __m256i first_two =
          _mm256_or_si256(_mm256_and_si256(_mm256_slli_epi16(w, kShift), low),
                          _mm256_and_si256(_mm256_slli_epi16(w, kShift + 3), high));
      const __m256i third = _mm256_and_si256(_mm256_srli_epi16(w, 10 - kShift), low);
      const __m256i a = _mm256_unpacklo_epi16(first_two, third);  // rows 0-3 and 8-11
      const __m256i b = _mm256_unpackhi_epi16(first_two, third);  // rows 4-7 and 12-15
      store_256(ranks + r, _mm256_permute2x128_si256(a, b, 0x20));
      store_256(ranks + r + 8, _mm256_permute2x128_si256(a, b, 0x31));
    }
  }
};

// Entries: 16 by magnitude, then the same negative.
struct N4S1 {
  static constexpr size_t kStripRows = 64, kBlocks = 8, kCellBytes = 5;
  static constexpr size_t kTogether = 1;  // columns: 8 tables of 28 entries
  using Ranks = uint64_t;

  static int entry(int pattern) { return pattern >= 13 ? pattern - 13 : 16 + 13 - pattern; }

  template <int kShift>
  static void decode(const uint8_t* unit, size_t height, size_t row, size_t count, Ranks* ranks) {
    const __m256i magnitude = _mm256_set1_epi8(15 << kShift);
    const __m256i sign = _mm256_set1_epi8(static_cast<char>(16 << kShift));
    for (size_t r = row; r < row + count; r += 32, ranks += 32) {
      const __m256i raw = load_256(unit + 4 * height + r);
      // Bit 7 is the sign of block 0; where its place is bit 6, that of block 1 is there already.
      __m256i signs = _mm256_srli_epi16(raw, 3 - kShift), next = kShift == 3 ? raw : signs;
      __m256i bytes[8];
      for (int i = 0; i < 8; i++) {
        const __m256i v = load_256(unit + i / 2 * height + r);
        const __m256i nibbles =
            i % 2 ? _mm256_srli_epi16(v, 4 - kShift) : _mm256_slli_epi16(v, kShift);
        bytes[i] =
            _mm256_or_si256(_mm256_and_si256(nibbles, magnitude), _mm256_and_si256(signs, sign));
        next = i == 0 && kShift == 2 ? raw : _mm256_add_epi16(next, next);
        signs = next;
      }
      // Eight bytes of each row together: pairs, fours, eights; lane 1 has rows 16-31.
      for (int h = 0; h < 2; h++) {  // rows 8h to 8h + 7
        __m256i pairs[4];
        for (int i = 0; i < 4; i++)
          pairs[i] = h ? _mm256_unpackhi_epi8(bytes[2 * i], bytes[2 * i + 1])
                       : _mm256_unpacklo_epi8(bytes[2 * i], bytes[2 * i + 1]);
        for (int g = 0; g < 2; g++) {  // rows 8h + 4g to 8h + 4g + 3
          const __m256i a = g ? _mm256_unpackhi_epi16(pairs[0], pairs[1])
                              : _mm256_unpacklo_epi16(pairs[0], pairs[1]);
          const __m256i b = g ? _mm256_unpackhi_epi16(pairs[2], pairs[3])
                              : _mm256_unpacklo_epi16(pairs[2], pairs[3]);
          const __m256i first = _mm256_unpacklo_epi32(a, b), second = _mm256_unpackhi_epi32(a, b);
          store_256(ranks + 8 * h + 4 * g, _mm256_permute2x128_si256(first, second, 0x20));
          store_256(ranks + 16 + 8 * h + 4 * g, _mm256_permute2x128_si256(first, second, 0x31));
        }
      }
    }
  }
};

// Lanes: the arithmetic of one entry, defined by the including file. kLanes vectors; Value, of
// Number; load, store, add, times(Value, Pattern); kWidens: Number is int16, whose sums
// take `flush` columns (kernels.h) and are then added to int32.
template <class Lanes, class Packing>
struct TableBatch {
  using X = typename Lanes::X;
  using Pattern = typename Lanes::Pattern;
  using Y = typename Lanes::Y;
  using Number = typename Lanes::Number;
  using Value = typename Lanes::Value;
  static constexpr size_t kLanes = Lanes::kLanes;
  static constexpr size_t kEntryBytes = 8 << Lanes::kShift, kTableBytes = kPatterns * kEntryBytes;
  // Columns whose tables are in L1 at once. More would fit: measured, half of L1 is best.
  static constexpr size_t kTogether = Packing::kTogether * 64 / kEntryBytes;
  static constexpr size_t kBlocksTogether = kTogether * Packing::kBlocks;

  // What a thread keeps to itself.
  struct Own {
    alignas(64) char tables[kBlocksTogether * kTableBytes];
    typename Packing::Ranks ranks[kTogether * Packing::kStripRows];
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
    constexpr size_t kStep = kLanes < 16 ? kLanes : 16;
    if (last == count) last = (count + kLanes - 1) / kLanes * kLanes;  // the rest: zeros
    for (size_t v = first; v < last; v += kStep) {
      Number* to = static_cast<Number*>(shared) + v / kLanes * kLanes * inputs + v % kLanes;
      const size_t stop = v + kStep < last ? v + kStep : last;
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

  // RSR++: level by level, the last digit first, as the kernels for one vector add.
  static void grow_ternary(const Number* x, char* table) {
    Value level[3][3];  // x[d] times -1, 0, 1
    for (int d = 0; d < 3; d++) {
      level[d][2] = Lanes::load(x + d * kLanes);
      level[d][1] = Lanes::times(level[d][2], 0);  // NaN if x is not finite
      level[d][0] = Lanes::times(level[d][2], -1);
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

  // Adds the entries of `columns` to each row's sums; kColumns: as many where that is known.
  template <size_t kColumns>
  static void add_rows(const char* tables, const typename Packing::Ranks* ranks, size_t columns,
                       size_t count, Number* tile) {
    for (size_t r = 0; r < count; r++, tile += kLanes) {
      Value sum = Lanes::load(tile);
      const char* t = tables;
      for (size_t j = 0; j < (kColumns ? kColumns : columns); j++) {
        typename Packing::Ranks bytes = ranks[j * Packing::kStripRows + r];
        for (size_t b = 0; b < Packing::kBlocks; b++, t += kTableBytes, bytes >>= 8)
          sum = Lanes::add(sum, Lanes::load(t + 8 * size_t{bytes & 255}));
      }
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
      columns = a.columns - g < kTogether ? a.columns - g : kTogether;
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
          Packing::template decode<Lanes::kShift>(column, height, r - start, stop - r,
                                                  own.ranks + j * Packing::kStripRows);
        Number* tile = own.tile + (r - top) * kLanes;
        columns == kTogether ? add_rows<kTogether>(own.tables, own.ranks, columns, stop - r, tile)
                             : add_rows<0>(own.tables, own.ranks, columns, stop - r, tile);
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
