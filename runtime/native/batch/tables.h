// Many vectors at once, one vector per lane: the sums of a block under all patterns are entries of
// 32 or 64 bytes. A row's rank picks an entry, and one addition serves all lanes: 8 to 32 vectors.
//
// A few columns are done at a time, so that their tables stay in L1 while many rows use them. The
// ranks of a strip are decoded into bytes; multiplied by 8, which addressing does for free, a byte
// is the offset of an entry. One load fetches the bytes of a whole column: loads are the limit.
//
// Internal linkage: each file that includes this compiles its own (table.h), after
// decoding_<isa>.h.
#pragma once
#include <cstring>

#include "table.h"

namespace rsr {
namespace {

constexpr size_t kTileRows = 1024;  // rows that use tables once built

struct FloatTypes {
  using X = float;
  using Pattern = float;
  using Y = float;
  using Number = float;
};

// An entry of kLanes vectors: N registers of Numbers, kPart bytes apart in a table. The including
// file defines the arithmetic of a register.
template <class Arithmetic, int N, size_t kPart = sizeof(typename Arithmetic::Register)>
struct Lanes : Arithmetic {
  using Register = typename Arithmetic::Register;
  struct Value {
    Register part[N];
  };
  static constexpr size_t kLanes = sizeof(Value) / sizeof(typename Arithmetic::Number);
  static constexpr size_t kEntryBytes =  // from one entry to the next
      kPart == sizeof(Register) ? sizeof(Value) : sizeof(Register);
  static constexpr int kShift = kEntryBytes == 32 ? 2 : 3;
  static_assert(kEntryBytes == 8 << kShift &&
                (N == 1 || kPart % kEntryBytes == 0 || kEntryBytes == sizeof(Value)));

  static Value entry(const char* p) {
    Value v;
    for (int i = 0; i < N; i++) v.part[i] = Arithmetic::load(p + i * kPart);
    return v;
  }
  // The entry that a decoded byte names.
  static Value at(const char* table, size_t byte) { return entry(table + 8 * byte); }
  static void set_entry(char* p, Value v) {
    for (int i = 0; i < N; i++) Arithmetic::store(p + i * kPart, v.part[i]);
  }
  static Value load(const void* p) {
    Value v;
    for (int i = 0; i < N; i++)
      v.part[i] = Arithmetic::load(static_cast<const char*>(p) + i * sizeof(Register));
    return v;
  }
  static void store(void* p, Value v) {
    for (int i = 0; i < N; i++)
      Arithmetic::store(static_cast<char*>(p) + i * sizeof(Register), v.part[i]);
  }
  static Value add(Value a, Value b) {
    for (int i = 0; i < N; i++) a.part[i] = Arithmetic::add(a.part[i], b.part[i]);
    return a;
  }
  static Value times(Value a, typename Arithmetic::Pattern p) {
    for (int i = 0; i < N; i++) a.part[i] = Arithmetic::times(a.part[i], p);
    return a;
  }
};

// Two registers, each with a table of its own: a rank is decoded once for both.
template <class Arithmetic>
using TwoTables = Lanes<Arithmetic, 2, kPatterns * sizeof(typename Arithmetic::Register)>;

// Bound: an int16 sum takes columns_per_widen columns (packing.h), then it is widened.
template <class Lanes, class Packing>
struct TableProduct {
  using X = typename Lanes::X;
  using Pattern = typename Lanes::Pattern;
  using Y = typename Lanes::Y;
  using Number = typename Lanes::Number;
  using Value = typename Lanes::Value;
  using Ranks = typename Packing::Ranks;
  static constexpr size_t kLanes = Lanes::kLanes;
  static constexpr bool kWidens = std::is_same_v<Number, int16_t>;
  static constexpr size_t kEntryBytes = Lanes::kEntryBytes;
  static constexpr size_t kTableBytes = kPatterns * sizeof(Value);
  // Columns whose tables are in L1 at once. More would fit; half of L1 measured best.
  static constexpr size_t kColumns = Packing::kColumns * 64 / kEntryBytes;
  static constexpr size_t kBlocks = kColumns * Packing::kBlocks;

  // Rows whose sums are in registers at once: more additions are then under way. AVX2 has too few
  // registers.
  static constexpr size_t kRows = sizeof(typename Lanes::Register) == 64 ? 4 : 1;
  // Ranks of a tile, (strip, column, kStripRows): the first strip may begin above the tile.
  using TileRanks = Ranks[(kTileRows + Packing::kStripRows) * kColumns];

  struct PerThread {
    alignas(64) char tables[kBlocks * kTableBytes];
    TileRanks ranks;
  };
  // Behind it, for each kLanes vectors of the pass, (row, kLanes):
  struct Sums {
    alignas(64) Number tile[kTileRows * kLanes];
    Y wide[kWidens ? kTileRows * kLanes : 16];
  };
  static Sums* sums_of(PerThread& scratch) { return reinterpret_cast<Sums*>(&scratch + 1); }

  static size_t per_thread_bytes(size_t, int, size_t count) {
    return sizeof(PerThread) + divide_up(count, kLanes) * sizeof(Sums);
  }

  // x, interleaved: (vectors / kLanes, inputs, kLanes).
  static size_t shared_bytes(size_t columns, int k, size_t count) {
    return divide_up(count, kLanes) * columns * Packing::kBlocks * k * kLanes * sizeof(Number);
  }

  static void prepare(const X* x, const Pattern*, int k, size_t columns, size_t count, size_t first,
                      size_t last, void* shared) {
    const size_t inputs = columns * Packing::kBlocks * k;
    constexpr size_t kStep = min(kLanes, 16);
    if (last == count) last = divide_up(count, kLanes) * kLanes;  // padded with zeros
    for (size_t v = first; v < last; v += kStep) {
      Number* to = static_cast<Number*>(shared) + v / kLanes * kLanes * inputs + v % kLanes;
      const size_t stop = min(v + kStep, last);
      for (size_t i = 0; i < inputs; i++)
        for (size_t j = v; j < stop; j++)
          to[i * kLanes + j - v] = j < count ? static_cast<Number>(x[j * inputs + i]) : Number(0);
    }
  }

  // Whether the patterns are all those of three ternary digits, in order.
  static bool is_ternary(const Pattern* patterns, int k) {
    if (k != 3) return false;
    for (int p = 0; p < 27; p++)
      if (patterns[p] != p / 9 - 1 || patterns[kPatterns + p] != p / 3 % 3 - 1 ||
          patterns[2 * kPatterns + p] != p % 3 - 1)
        return false;
    return true;
  }

  // RSR++: level by level from the last digit, in the order of additions of the vector kernels.
  static void build_ternary_table(const Number* x, char* table) {
    Value level[3][3];  // x[d] times -1, 0, 1
    for (int d = 0; d < 3; d++) {
      level[d][2] = Lanes::load(x + d * kLanes);
      level[d][1] = Lanes::times(level[d][2], 0);  // NaN if x is not finite
      level[d][0] = Lanes::times(level[d][2], -1);
    }
    for (int p = 0; p < 9; p++) {
      const Value last_two = Lanes::add(level[2][p % 3], level[1][p / 3]);
      for (int d = 0; d < 3; d++)
        Lanes::set_entry(table + Packing::entry(9 * d + p) * kEntryBytes,
                         Lanes::add(last_two, level[0][d]));
    }
  }

  static void build_table(const Number* x, const Pattern* patterns, int k, char* table) {
    for (int p = 0; p < kPatterns; p++) {
      Value sum =
          Lanes::times(Lanes::load(x + (k - 1) * kLanes), patterns[(k - 1) * kPatterns + p]);
      for (int d = k - 1; d-- > 0;)
        sum =
            Lanes::add(sum, Lanes::times(Lanes::load(x + d * kLanes), patterns[d * kPatterns + p]));
      Lanes::set_entry(table + p * kEntryBytes, sum);
    }
  }

  // Adds the entries of `columns` columns to the sums of each row; kKnown: `columns`, or 0 if
  // unknown at compile time.
  template <size_t kKnown>
  static void add_rows(const char* tables, const Ranks* ranks, size_t columns, size_t count,
                       Number* tile) {
    if constexpr (kRows == 1) {  // AVX2 and NEON; GCC unrolls this, but not the loops below
      for (size_t r = 0; r < count; r++, tile += kLanes) {
        Value sum = Lanes::load(tile);
        const char* t = tables;
        for (size_t j = 0; j < (kKnown ? kKnown : columns); j++) {
          Ranks bytes = ranks[j * Packing::kStripRows + r];
          for (size_t b = 0; b < Packing::kBlocks; b++, t += kTableBytes, bytes >>= 8)
            sum = Lanes::add(sum, Lanes::at(t, bytes & 255));
        }
        Lanes::store(tile, sum);
      }
      return;
    }
    for (size_t r = 0; r < count; r += kRows, tile += kRows * kLanes) {
      Value sums[kRows];
      for (size_t i = 0; i < kRows; i++) sums[i] = Lanes::load(tile + i * kLanes);
      const char* t = tables;
      for (size_t j = 0; j < (kKnown ? kKnown : columns); j++) {
        Ranks bytes[kRows];
        for (size_t i = 0; i < kRows; i++) bytes[i] = ranks[j * Packing::kStripRows + r + i];
        for (size_t b = 0; b < Packing::kBlocks; b++, t += kTableBytes)
          for (size_t i = 0; i < kRows; i++) {
            sums[i] = Lanes::add(sums[i], Lanes::at(t, bytes[i] & 255));
            bytes[i] >>= 8;
          }
      }
      for (size_t i = 0; i < kRows; i++) Lanes::store(tile + i * kLanes, sums[i]);
    }
  }

  // Adds the entries of the first `blocks` blocks of one column: sum_of(row) + entries goes to
  // put(row, sum). kKnown: `blocks`, or 0 if unknown at compile time.
  template <size_t kKnown, class SumOf, class Put>
  static void add_column(const char* tables, const Ranks* ranks, size_t blocks, size_t count,
                         const SumOf& sum_of, const Put& put) {
    if constexpr (kRows == 1) {  // AVX2 and NEON
      for (size_t r = 0; r < count; r++) {
        Value sum = sum_of(r);
        Ranks bytes = ranks[r];
        const char* t = tables;
#pragma GCC unroll 8
        for (size_t b = 0; b < (kKnown ? kKnown : blocks); b++, t += kTableBytes, bytes >>= 8)
          sum = Lanes::add(sum, Lanes::at(t, bytes & 255));
        put(r, sum);
      }
      return;
    }
    for (size_t r = 0; r < count; r += kRows) {
      Value sums[kRows];
      Ranks bytes[kRows];
      for (size_t i = 0; i < kRows; i++) sums[i] = sum_of(r + i);
      for (size_t i = 0; i < kRows; i++) bytes[i] = ranks[r + i];
      const char* t = tables;
      for (size_t b = 0; b < (kKnown ? kKnown : blocks); b++, t += kTableBytes)
        for (size_t i = 0; i < kRows; i++) {
          sums[i] = Lanes::add(sums[i], Lanes::at(t, bytes[i] & 255));
          bytes[i] >>= 8;
        }
      for (size_t i = 0; i < kRows; i++) put(r + i, sums[i]);
    }
  }

  static void build_tables(const Number* x, const Pattern* patterns, int k, bool ternary,
                           size_t blocks, char* tables) {
    for (size_t b = 0; b < blocks; b++, x += k * kLanes, tables += kTableBytes)
      ternary ? build_ternary_table(x, tables) : build_table(x, patterns, k, tables);
  }

  // Decodes the ranks of rows [r, stop) of a strip in some columns.
  static void decode_rows(const RankedRows& a, size_t r, size_t stop, size_t first_column,
                          size_t columns, Ranks* ranks) {
    const size_t start = r / Packing::kStripRows * Packing::kStripRows;
    const size_t height = strip_height<Packing>(a.end - start);
    const uint8_t* column =
        a.index + (start * a.columns + first_column * height) * Packing::kCellBytes;
    for (size_t j = 0; j < columns; j++, column += height * Packing::kCellBytes)
      Packing::template decode<Lanes::kShift>(column, height, r - start, stop - r,
                                              ranks + j * Packing::kStripRows);
  }

  static size_t strip_end(size_t r, size_t bottom) {
    return min(bottom, (r / Packing::kStripRows + 1) * Packing::kStripRows);
  }

  // The end of the tile that begins with row `top`: tiles are about as high as each other.
  static size_t tile_end(size_t top, size_t last) {
    const size_t rows = last - top, tiles = divide_up(rows, kTileRows);
    return min(last,
               top + divide_up(divide_up(rows, tiles), Packing::kStripRows) * Packing::kStripRows);
  }

  // Calls build(set), then add(set, first row, one past the last, ranks of the first) for each
  // strip of a tile. decode(first row, one past the last, ranks) serves all sets; a single one uses
  // the ranks of a strip while they are in L1.
  template <class Decode, class Build, class Add>
  static void for_sets(size_t top, size_t bottom, size_t sets, Ranks* ranks, const Decode& decode,
                       const Build& build, const Add& add) {
    const size_t begin = top / Packing::kStripRows * Packing::kStripRows;
    const auto for_strips = [&](const auto& body) {
      for (size_t r = top, stop; r < bottom; r = stop) {
        stop = strip_end(r, bottom);
        const size_t strip = r / Packing::kStripRows * Packing::kStripRows;
        body(r, stop, ranks + (strip - begin) * kColumns + r - strip);
      }
    };
    if (sets == 1) {
      build(0);
      return for_strips([&](size_t r, size_t stop, Ranks*) {
        decode(r, stop, ranks);
        add(0, r, stop, ranks);
      });
    }
    for_strips(decode);
    for (size_t s = 0; s < sets; s++) {
      build(s);
      for_strips([&](size_t r, size_t stop, const Ranks* here) { add(s, r, stop, here); });
    }
  }

  // Adds columns [g, g + columns) of the index to the sums of rows [top, bottom) and each set.
  template <class Build, class TileOf>
  static void add_columns(const RankedRows& a, size_t top, size_t bottom, size_t g, size_t columns,
                          size_t sets, const char* tables, Ranks* ranks, const Build& build,
                          const TileOf& tile_of) {
    for_sets(
        top, bottom, sets, ranks,
        [&](size_t r, size_t stop, Ranks* to) { decode_rows(a, r, stop, g, columns, to); }, build,
        [&](size_t s, size_t r, size_t stop, const Ranks* from) {
          Number* sums = tile_of(s) + (r - top) * kLanes;
          columns == kColumns ? add_rows<kColumns>(tables, from, columns, stop - r, sums)
                              : add_rows<0>(tables, from, columns, stop - r, sums);
        });
  }

  // Rows [top, bottom) times `sets` times kLanes vectors.
  static void multiply_tile(const RankedRows& a, size_t top, size_t bottom, const Pattern* patterns,
                            int k, bool ternary, const Number* x, size_t sets, PerThread& scratch) {
    const size_t sums = (bottom - top) * kLanes, inputs = a.columns * Packing::kBlocks * k * kLanes;
    Sums* const all = sums_of(scratch);
    for (size_t s = 0; s < sets; s++) {
      std::memset(all[s].tile, 0, sums * sizeof(Number));
      if (kWidens) std::memset(all[s].wide, 0, sums * sizeof(Y));
    }
    size_t since = 0;  // columns since the last widening
    for (size_t g = 0, columns; g < a.columns; g += columns) {
      columns = min(a.columns - g, kColumns);
      const bool is_full = kWidens && since + columns > a.columns_per_widen;
      if (is_full) columns = min(columns, a.columns_per_widen);
      add_columns(
          a, top, bottom, g, columns, sets, scratch.tables, scratch.ranks,
          [&](size_t s) {
            if constexpr (kWidens)
              if (is_full && since) widen(all[s].tile, all[s].wide, sums);
            build_tables(x + s * inputs, patterns, k, ternary, columns * Packing::kBlocks,
                         scratch.tables);
          },
          [&](size_t s) { return all[s].tile; });
      since = is_full ? columns : since + columns;
      x += columns * Packing::kBlocks * k * kLanes;
    }
    if constexpr (kWidens)
      for (size_t s = 0; s < sets; s++) widen(all[s].tile, all[s].wide, sums);
  }

  static void multiply(const RankedRows& a, const Pattern* patterns, int k, const void* shared,
                       size_t count, void* memory, Y* y, size_t stride) {
    PerThread& scratch = *static_cast<PerThread*>(memory);
    const bool ternary = is_ternary(patterns, k);
    std::memset(scratch.tables, 0, sizeof scratch.tables);  // for ranks that are no pattern
    const Number* x = static_cast<const Number*>(shared);
    for (size_t top = a.first, bottom; top < a.last; top = bottom) {
      bottom = tile_end(top, a.last);
      multiply_tile(a, top, bottom, patterns, k, ternary, x, divide_up(count, kLanes), scratch);
      for (size_t i = 0; i < count; i += kLanes) {
        const Sums& all = sums_of(scratch)[i / kLanes];
        const Y* sums;
        if constexpr (kWidens)
          sums = all.wide;
        else
          sums = all.tile;
        store_tile(sums, bottom - top, min(count - i, kLanes), y + i * stride + top - a.first,
                   stride);
      }
    }
  }

  static void store_tile(const Y* sums, size_t rows, size_t vectors, Y* y, size_t stride) {
    for (size_t i = 0; i < vectors; i++)
      for (size_t r = 0; r < rows; r++) y[i * stride + r] = sums[r * kLanes + i];
  }

  // sets: kLanes vectors each, of one pass: they share decoded ranks.
  static constexpr BatchKernel<X, Pattern, Y> kernel(size_t min_vectors, size_t sets = 1) {
    return {min_vectors, sets * kLanes, shared_bytes, per_thread_bytes, prepare, multiply,
            16,          nullptr,       kLanes};
  }
};

}  // namespace
}  // namespace rsr
