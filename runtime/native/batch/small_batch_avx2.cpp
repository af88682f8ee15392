// A few int8 vectors at once, AVX2 (small_batch.h): 32 rows at a time, with lookups of vpshufb.
//
// In both packings, as in vector/n4s1_avx2.h, a block's sum is cut into two digits of one byte, l
// and h, small enough that those of several blocks add up in a byte; one vpmaddubsw per 16 rows
// then joins them in int16.
#include <cstring>

#include "batch/small_batch.h"
#include "vector/n4s1_avx2.h"

namespace rsr {
namespace {

// sum += v, now: GCC would postpone the additions of several blocks until registers run out.
inline void add_now(__m256i& sum, __m256i v) {
  sum = _mm256_add_epi8(sum, v);
#if defined(__GNUC__) || defined(__clang__)
  __asm__("" : "+x"(sum));
#endif
}

// Each of the following decodes the indices of 32 rows of a column, block by block, and looks up
// their digits. The digits of kColumns columns add up in bytes.

// Signed magnitudes. Where the sign is set, an XOR with -1 makes -1 - digit; the missing ones are
// added at the start. Additions and XOR run on every port that runs lookups, vpsignb does not.
// Bound: |sum| <= 384 makes |l| <= 12, |h| <= 15, eight of them <= 120; bytes may wrap on the way.
struct N4S1Digits : N4S1 {
  using Packing = N4S1;
  using Few = N4S1Digits;                 // its tables have 16 entries already
  static constexpr size_t kRowBytes = 1;  // from one row to the next, within a vector
  static constexpr size_t kColumns = 1, kTableBytes = 32;
  static constexpr int kBase = 25;
  static constexpr bool kRowsInOrder = false;

  // 16 digits l by magnitude, then 16 digits h.
  static void build_table(const int8_t* x, const int16_t* patterns, int k, char* t) {
    store(t, digits_of<kBase>(sums_of(x, patterns + kZeroRank, k)));
  }

  struct Indices {
    __m256i signs, nibbles, magnitudes, negative;
  };

  // The initial value of both digits: the number of negative blocks.
  static __m256i start(const uint8_t* unit, size_t height) {
    return negatives(load(unit + kSignVector * height));
  }
  static __m256i negatives(__m256i signs) {
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i ones = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                          0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    return _mm256_add_epi8(
        _mm256_shuffle_epi8(ones, _mm256_and_si256(signs, low)),
        _mm256_shuffle_epi8(ones, _mm256_and_si256(_mm256_srli_epi16(signs, 4), low)));
  }

  static Indices first(const uint8_t* unit, size_t height) {
    Indices i;
    i.signs = load(unit + kSignVector * height);
    return i;
  }

  static void next(Indices& i, const uint8_t* unit, size_t height, size_t block) {
    const __m256i low = _mm256_set1_epi8(15);
    if (block % 2 == 0) i.nibbles = load(unit + block / 2 * height);
    i.magnitudes = _mm256_and_si256(block % 2 ? _mm256_srli_epi16(i.nibbles, 4) : i.nibbles, low);
    if (block > 0) i.signs = _mm256_add_epi8(i.signs, i.signs);
    i.negative = _mm256_cmpgt_epi8(_mm256_setzero_si256(), i.signs);
  }

  static __m256i digits(const Indices& i, const char* t) {
    return _mm256_xor_si256(_mm256_shuffle_epi8(load_twice(t), i.magnitudes), i.negative);
  }
};

// Entries 0-15 and 16-31 take one lookup each; the one that does not apply yields zero
// (vector/w16_avx2.cpp). Of up to kFewPatterns patterns only the former has entries.
// Bound: |sum| <= 128 kMaxK = 640 makes |l| <= 20, |h| <= 16, six of them <= 120.
template <bool HasFewPatterns>
struct W16Digits : W16 {
  using Packing = W16;
  using Few = W16Digits<true>;
  static constexpr size_t kRowBytes = 2, kColumns = 2, kTableBytes = 64;
  static constexpr int kBase = 41;
  static constexpr bool kRowsInOrder = true;

  // 16 digits l, 16 digits h; the same for entries 16-31.
  static void build_table(const int8_t* x, const int16_t* patterns, int k, char* t) {
    store(t, digits_of<kBase>(sums_of(x, patterns, k)));
    store(t + 32, digits_of<kBase>(sums_of(x, patterns + 16, k)));
  }

  static __m256i start(const uint8_t*, size_t) { return _mm256_setzero_si256(); }

  struct Indices {
    __m256i low_words, high_words, lower, upper;
  };

  static Indices first(const uint8_t* words, size_t) {
    Indices i;
    i.low_words = load(words);
    i.high_words = load(words + 32);
    return i;
  }

  static void next(Indices& i, const uint8_t*, size_t, size_t block) {
    const __m256i mask = _mm256_set1_epi16(31);
    const int shift = kRankBits * static_cast<int>(block);
    const __m256i ranks =
        _mm256_packus_epi16(_mm256_and_si256(_mm256_srli_epi16(i.low_words, shift), mask),
                            _mm256_and_si256(_mm256_srli_epi16(i.high_words, shift), mask));
    i.lower = _mm256_add_epi8(ranks, _mm256_set1_epi8(0x70));  // 16-31 sets bit 7
    i.upper = _mm256_sub_epi8(ranks, _mm256_set1_epi8(0x10));  // 0-15 sets bit 7
  }

  static __m256i digits(const Indices& i, const char* t) {
    if constexpr (HasFewPatterns) return _mm256_shuffle_epi8(load_twice(t), i.lower);
    return _mm256_or_si256(_mm256_shuffle_epi8(load_twice(t), i.lower),
                           _mm256_shuffle_epi8(load_twice(t + 32), i.upper));
  }
};

inline void add_widened(int32_t* y, bool is_first, __m256i v_i16x16, int half) {
  const __m128i eight =
      half ? _mm256_extracti128_si256(v_i16x16, 1) : _mm256_castsi256_si128(v_i16x16);
  const __m256i wide = _mm256_cvtepi16_epi32(eight);
  store(y, is_first ? wide : _mm256_add_epi32(wide, load(y)));
}

// 32 rows of T vectors. Bound: run.columns <= columns_per_widen, which an int16 sum takes.
template <class Digits, int T>
void lookup_set(const Run& run) {
  const uint8_t *column = run.column, *ahead = run.ahead;
  const size_t height = run.height, column_bytes = height * Digits::kCellBytes;
  const char* t = run.tables;
  __m256i low_i16x16[T], high_i16x16[T];
  for (int i = 0; i < T; i++) low_i16x16[i] = high_i16x16[i] = _mm256_setzero_si256();
  for (size_t c = 0; c < run.columns;) {
    __m256i l[T], h[T];
#pragma GCC unroll 4
    for (int i = 0; i < T; i++) l[i] = h[i] = Digits::start(column, height);
    const size_t stop = min(run.columns, c + Digits::kColumns);
    for (; c < stop; c++, column += column_bytes, ahead += column_bytes) {
      for (size_t line = 0; line < Digits::kCellBytes; line += Digits::kRowBytes)
        _mm_prefetch(reinterpret_cast<const char*>(ahead + line * height), _MM_HINT_T1);
      typename Digits::Indices indices = Digits::first(column, height);
#pragma GCC unroll 8
      for (size_t block = 0; block < Digits::kBlocks; block++) {
        Digits::next(indices, column, height, block);
#pragma GCC unroll 4
        for (int i = 0; i < T; i++, t += Digits::kTableBytes) {
          add_now(l[i], Digits::digits(indices, t));
          add_now(h[i], Digits::digits(indices, t + 16));
        }
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < T; i++)
      add_joined<Digits::kBase>(l[i], h[i], low_i16x16[i], high_i16x16[i]);
  }
  int32_t* y = run.y;
  for (int i = 0; i < T; i++, y += run.stride) {
    add_widened(y, run.is_first, low_i16x16[i], 0);
    add_widened(y + (Digits::kRowsInOrder ? 8 : 16), run.is_first, low_i16x16[i], 1);
    add_widened(y + (Digits::kRowsInOrder ? 16 : 8), run.is_first, high_i16x16[i], 0);
    add_widened(y + 24, run.is_first, high_i16x16[i], 1);
  }
}

template <class Digits>
struct Kernel : Digits {
  using Packing = typename Digits::Packing;
  static constexpr size_t kColumnTableBytes = Packing::kBlocks * Digits::kTableBytes;

  static void build_tables(const int8_t* x, const int16_t* patterns, int k, size_t columns,
                           size_t width, char* t) {
    for (size_t b = 0; b < columns * Packing::kBlocks;
         b++, x += k, t += width * Digits::kTableBytes)
      Digits::build_table(x, patterns, k, t);
  }
  static size_t rows_at_once(size_t, size_t) { return 32; }
  static auto lookup(size_t, size_t width, bool has_few_patterns) {
    using Few = typename Digits::Few;
    constexpr void (*kLookup[2][kSetVectors])(const Run&) = {
        {lookup_set<Digits, 1>, lookup_set<Digits, 2>, lookup_set<Digits, 3>,
         lookup_set<Digits, 4>},
        {lookup_set<Few, 1>, lookup_set<Few, 2>, lookup_set<Few, 3>, lookup_set<Few, 4>}};
    return kLookup[has_few_patterns][width - 1];
  }
};

// The same with scales of groups of columns, packing w16. A set's sums of a group are complete
// before they are scaled and added to y. A word column of two groups is looked up for both: each
// group has tables of its own, which are zero for the other group's blocks.
//
// Per group, 32 rows and vector: 4 each of vcvtdq2ps, vmulps and vfmadd, and their loads and
// stores. Bound: a run takes columns_per_widen columns.
struct GroupedSmallBatch {
  using Lookups = Kernel<W16Digits<false>>;
  static constexpr size_t kRows = 32;

  // Word columns of a group.
  static size_t most_columns(const Grouping& grouping) {
    return divide_up(group_end(grouping, 0) + W16::kBlocks - 1, W16::kBlocks);
  }
  static size_t group_bytes(const Grouping& grouping) {  // tables of a group and vector
    return most_columns(grouping) * Lookups::kColumnTableBytes;
  }

  static size_t shared_bytes(const Grouping& grouping, int, size_t count) {
    return group_count(grouping) * group_bytes(grouping) * count;
  }
  static size_t per_thread_bytes(const Grouping&, int, size_t) { return 0; }

  // Tables: (set, group, block, vector of the set).
  static void prepare(const int8_t* x, const int16_t* patterns, int k, size_t columns,
                      const Grouping& grouping, size_t count, size_t first, size_t last,
                      void* shared) {
    const size_t groups = group_count(grouping), bytes = group_bytes(grouping);
    for_vectors(count, kSetVectors, first, last, [&](size_t i, size_t begin, size_t width) {
      const int8_t* inputs = x + i * columns * W16::kBlocks * k;
      for (size_t g = 0, b = 0, end; g < groups; g++, b = end) {
        end = group_end(grouping, b);
        char* t = static_cast<char*>(shared) + (begin * groups + g * width) * bytes +
                  (i - begin) * Lookups::kTableBytes;
        const size_t stop = divide_up(end, W16::kBlocks) * W16::kBlocks;
        for (size_t block = b / W16::kBlocks * W16::kBlocks; block < stop;
             block++, t += width * Lookups::kTableBytes) {
          if (b <= block && block < end)
            Lookups::build_table(inputs + block * k, patterns, k, t);
          else
            std::memset(t, 0, Lookups::kTableBytes);
        }
      }
    });
  }

  static void multiply(const RankedRows& a, const GroupScales& scales, const int16_t*, int,
                       const void* shared, size_t count, void*, float* y, size_t stride) {
    const Grouping& grouping = scales.grouping;
    const size_t groups = group_count(grouping), bytes = group_bytes(grouping);
    const size_t entry = entry_bytes(scales);
    for (size_t top = a.first; top < a.last; top += kPassRows) {
      const size_t bottom = min(a.last, top + kPassRows);
      for (size_t g = 0, b = 0, end; g < groups; g++, b = end) {
        end = group_end(grouping, b);
        const size_t c = b / W16::kBlocks, columns = divide_up(end, W16::kBlocks) - c;
        for_sets(count, kSetVectors, [&](size_t begin, size_t width) {
          const char* tables =
              static_cast<const char*>(shared) + (begin * groups + g * width) * bytes;
          for (size_t r = top; r < bottom; r += kRows) {
            int32_t sums[kSetVectors * kRows];
            add_runs(a, r, c, columns, tables, width, sums);
            const char* scale = scales_at(scales, g, r - a.first);
            for (size_t i = 0; i < width; i++) {
              const __m256 step = _mm256_set1_ps(step_of(scales, begin + i, g));
              float* to = y + (begin + i) * stride + r - a.first;
              for (size_t j = 0; j < kRows; j += 8) {
                const __m256 factor =
                    _mm256_mul_ps(eight_scales(scale + j * entry, scales.is_half), step);
                const __m256 sum = _mm256_cvtepi32_ps(load(sums + i * kRows + j));
                const __m256 before = g ? _mm256_loadu_ps(to + j) : _mm256_setzero_ps();
                _mm256_storeu_ps(to + j, _mm256_fmadd_ps(sum, factor, before));
              }
            }
          }
        });
      }
    }
  }

  // sums (vector of the set, kRows) = columns [c, c + columns) of rows from r on.
  static void add_runs(const RankedRows& a, size_t r, size_t c, size_t columns, const char* tables,
                       size_t width, int32_t* sums) {
    const size_t strip = r / W16::kStripRows * W16::kStripRows;
    const size_t height = strip_height<W16>(a.end - strip);
    const uint8_t* column =
        a.index + (strip * a.columns + c * height + r - strip) * W16::kCellBytes;
    const size_t strip_bytes = W16::kStripRows * a.columns * W16::kCellBytes;
    const uint8_t* ahead = strip + 2 * W16::kStripRows <= a.end ? column + strip_bytes : column;
    for (size_t done = 0, run; done < columns; done += run) {
      run = min(columns - done, a.columns_per_widen);
      const size_t at = done * height * W16::kCellBytes;
      Lookups::lookup(kRows, width, a.has_few_patterns)(
          {column + at, ahead + at, height, run, tables + done * width * Lookups::kColumnTableBytes,
           done == 0, sums, kRows});
    }
  }

  static constexpr GroupedBatchKernel<int8_t, int16_t> kBatch = {
      2, 16, shared_bytes, per_thread_bytes, prepare, multiply, 1};
};

// The same, packing n4s1. The float sums are those of vector/n4s1_i8_avx2.cpp, bit by bit.
// Bound: an int16 sum takes the blocks of columns_per_widen units, then it is widened to int32.
struct GroupedUnits {
  using Packing = N4S1;
  using Digits = N4S1Digits;
  static constexpr size_t kMinVectors = 2, kVectors = kSetVectors, kRows = 32;
  static constexpr size_t kTableBytes = Digits::kTableBytes, kLineRows = 64;

  // The units of a group.
  struct Layout {
    Layout(const RankedRows& a, const Grouping& grouping)
        : index(a.index),
          end(a.end),
          group_bytes(N4S1::group_bytes(grouping.blocks_per_group)),
          row_bytes((group_count(grouping) - 1) * group_bytes +
                    N4S1::group_bytes(grouping.blocks -
                                      (group_count(grouping) - 1) * grouping.blocks_per_group)) {}
    const uint8_t* at(size_t g, size_t r) const {
      const size_t strip = r / N4S1::kStripRows * N4S1::kStripRows;
      const size_t height = strip_height<N4S1>(end - strip);
      return index + strip * row_bytes + g * group_bytes * height + r - strip;
    }

    const uint8_t* index;
    size_t end, group_bytes, row_bytes;  // of a group and row, of a row
  };

  static void build_tables(const int8_t* x, const int16_t* patterns, int k, size_t blocks,
                           size_t step, char* t) {
    for (size_t b = 0; b < blocks; b++, x += k, t += step) Digits::build_table(x, patterns, k, t);
  }

  static size_t rows_at_once(size_t, size_t) { return kRows; }

  // Adds a unit of N blocks.
  template <int N, int T>
  static void add_unit(const uint8_t* unit, size_t height, const char* t, __m256i* low_i16x16,
                       __m256i* high_i16x16) {
    const __m256i byte = load(unit + (N4S1::unit_bytes(N) - 1) * height);
    Digits::Indices indices;
    indices.signs = byte;
    __m256i l[T], h[T];
    const __m256i negatives =
        Digits::negatives(_mm256_and_si256(byte, _mm256_set1_epi8(static_cast<char>(~(255 >> N)))));
    for (int i = 0; i < T; i++) l[i] = h[i] = negatives;
#pragma GCC unroll 8
    for (int block = 0; block < N; block++) {
      Digits::next(indices, unit, height, block);
#pragma GCC unroll 4
      for (int i = 0; i < T; i++, t += kTableBytes) {
        add_now(l[i], Digits::digits(indices, t));
        add_now(h[i], Digits::digits(indices, t + 16));
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < T; i++)
      add_joined<Digits::kBase>(l[i], h[i], low_i16x16[i], high_i16x16[i]);
  }

  // 32 rows of T vectors.
  template <int T>
  static void lookup_group(const GroupRun& group) {
    if (group.ahead != group.index)
      for (size_t line = 0; line < N4S1::group_bytes(group.end - group.begin); line++)
        _mm_prefetch(reinterpret_cast<const char*>(group.ahead + line * group.height), _MM_HINT_T1);
    const uint8_t* unit = group.index;
    const char* t = group.tables;
    __m256i low_i16x16[T], high_i16x16[T];
    int32_t wide[T][kRows];  // sums so far, if an int16 sum does not take the group
    // Eight int32 sums of vector i, from row 8 j on.
    const auto eight = [&](int i, int j) {
      const __m256i sixteen = j % 2 ? high_i16x16[i] : low_i16x16[i];
      return _mm256_cvtepi16_epi32(j / 2 ? _mm256_extracti128_si256(sixteen, 1)
                                         : _mm256_castsi256_si128(sixteen));
    };
    bool is_wide = false;
    for (size_t left = group.end - group.begin;;) {
      const UnitRun run(left, group.columns_per_widen);
      for (int i = 0; i < T; i++) low_i16x16[i] = high_i16x16[i] = _mm256_setzero_si256();
      const auto add = [&](auto blocks) {
        constexpr int kN = decltype(blocks)::value;
        add_unit<kN, T>(unit, group.height, t, low_i16x16, high_i16x16);
        unit += N4S1::unit_bytes(kN) * group.height;
        t += kN * T * kTableBytes;
      };
      for (size_t u = 0; u < run.units; u++) add(std::integral_constant<int, int{N4S1::kBlocks}>());
      with_blocks(run.short_blocks, add);
      left -= run.blocks();
      if (left == 0) break;
      for (int i = 0; i < T; i++)
        for (int j = 0; j < 4; j++) {
          const __m256i sum = eight(i, j);
          store(wide[i] + 8 * j, is_wide ? _mm256_add_epi32(sum, load(wide[i] + 8 * j)) : sum);
        }
      is_wide = true;
    }
    const size_t entry = group.is_half ? 2 : 4;
    __m256 steps[T];
    for (int i = 0; i < T; i++) steps[i] = _mm256_set1_ps(group.steps[i]);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
      const __m256 scale = eight_scales(group.scales + 8 * j * entry, group.is_half);
#pragma GCC unroll 4
      for (int i = 0; i < T; i++) {
        __m256i sum = eight(i, j);
        if (is_wide) sum = _mm256_add_epi32(sum, load(wide[i] + 8 * j));
        float* y = group.y + i * group.stride + 8 * j;
        const __m256 before = group.is_first ? _mm256_setzero_ps() : _mm256_loadu_ps(y);
        _mm256_storeu_ps(
            y, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(scale, steps[i]), before));
      }
    }
  }

  static auto lookup(size_t, size_t width) {
    constexpr void (*kLookup[kVectors])(const GroupRun&) = {lookup_group<1>, lookup_group<2>,
                                                            lookup_group<3>, lookup_group<4>};
    return kLookup[width - 1];
  }
};

}  // namespace

void fill_small_batch_avx2(KernelTable& table, Isa isa) {
  // AVX-512 looks up single vectors faster than this a few.
  if (isa >= Isa::avx512) return;
  table.w16_i8.small_batch = SmallBatch<Kernel<W16Digits<false>>>::kBatch;
  table.w16_i8.small_grouped_batch = GroupedSmallBatch::kBatch;
  table.n4s1_i8.small_batch = SmallBatch<Kernel<N4S1Digits>>::kBatch;
  table.n4s1_i8.small_grouped_batch = SmallGroupedBatch<GroupedUnits>::kBatch;
}

}  // namespace rsr
