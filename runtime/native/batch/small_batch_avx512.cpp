// A few int8 vectors at once, packing w16, AVX-512 (small_batch.h, vector/w16_avx512.h): the words
// are read and shifted once for a set. What remains is a lookup and an addition for 96
// multiply-adds.
//
// Per word column, 64 rows and 4 vectors (768 k multiply-adds): 24 vpermw, 24 vpaddw, 4 vpsrlw, 12
// loads of tables, 2 of words. 52 operations on two ports: 26 cycles on Sapphire Rapids.
#include "batch/small_batch.h"
#include "vector/group_scales_avx512.h"
#include "vector/w16_avx512.h"

namespace rsr {
namespace {

// 32 R rows of T vectors. Bound: run.columns <= columns_per_widen, which an int16 sum takes.
template <int R, int T>
void lookup_set(const Run& run) {
  constexpr size_t kTableBytes = W16::kBlocks * kTableBytesI8;
  const uint16_t* words = reinterpret_cast<const uint16_t*>(run.column);
  const uint16_t* ahead = reinterpret_cast<const uint16_t*>(run.ahead);
  const char* t = run.tables;
  __m512i sum_i16x32[T][R];
  for (auto& sums : sum_i16x32)
    for (auto& sum : sums) sum = _mm512_setzero_si512();
  for (size_t g = 0; g < run.columns;
       g++, words += run.height, ahead += run.height, t += T * kTableBytes) {
    for (int r = 0; r < R; r++)
      _mm_prefetch(reinterpret_cast<const char*>(ahead + 32 * r), _MM_HINT_T1);
    __m512i w0[R], w1[R], w2[R];
    for (int r = 0; r < R; r++) {
      w0[r] = load(words + 32 * r);
      w1[r] = _mm512_srli_epi16(w0[r], 5);
      w2[r] = _mm512_srli_epi16(w0[r], 10);
    }
    for (int i = 0; i < T; i++) {
      const char* ti = t + i * kTableBytes;
      const __m512i t0 = load(ti), t1 = load(ti + kTableBytesI8), t2 = load(ti + 2 * kTableBytesI8);
      for (int r = 0; r < R; r++) {
        __m512i& sum = sum_i16x32[i][r];
        sum = _mm512_add_epi16(sum, _mm512_permutexvar_epi16(w0[r], t0));
        sum = _mm512_add_epi16(sum, _mm512_permutexvar_epi16(w1[r], t1));
        sum = _mm512_add_epi16(sum, _mm512_permutexvar_epi16(w2[r], t2));
      }
    }
  }
  for (int i = 0; i < T; i++) {
    for (int r = 0; r < R; r++) {
      int32_t* y = run.y + i * run.stride + 32 * r;
      __m512i low = _mm512_setzero_si512(), high = low;
      if (!run.is_first) low = load(y), high = load(y + 16);
      add_widened(sum_i16x32[i][r], low, high);
      _mm512_storeu_si512(y, low);
      _mm512_storeu_si512(y + 16, high);
    }
  }
}

struct Kernel {
  using Packing = W16;
  static constexpr size_t kRowBytes = 2, kTableBytes = W16::kBlocks * kTableBytesI8;
  static constexpr size_t kColumnTableBytes = kTableBytes;

  static void build_tables(const int8_t* x, const int16_t* patterns, int k, size_t columns,
                           size_t width, char* t) {
    with_k(k, [&](auto K) {
      for (size_t g = 0; g < columns; g++)
        build_tables_i8<K>(x + g * W16::kBlocks * k, patterns, k, W16::kBlocks,
                           t + g * width * kTableBytes);
    });
  }
  // Fewer vectors leave registers for more rows, which then share each load of a table.
  static size_t rows_at_once(size_t rows, size_t width) {
    return rows >= 128 && width < kSetVectors ? 128 : rows >= 64 ? 64 : 32;
  }
  template <int R>
  static constexpr void (*kLookup[kSetVectors])(const Run&) = {lookup_set<R, 1>, lookup_set<R, 2>,
                                                               lookup_set<R, 3>, lookup_set<R, 4>};
  static auto lookup(size_t rows, size_t width, bool) {
    return (rows == 128 ? kLookup<4> : rows == 64 ? kLookup<2> : kLookup<1>)[width - 1];
  }
};

// The same with scales of groups of columns. A word's ranks of other groups are skipped.
//
// Per group, 32 rows and vector: 2 each of vpmovsxwd, vcvtdq2ps, vmulps, vfmadd and stores. The
// float sums are those of vector/w16_grouped_avx512.cpp, bit by bit.
// Bound: an int16 sum takes the blocks of columns_per_widen columns, then it is widened to int32.
struct GroupedKernel {
  using Packing = W16;
  // Rows of processor.cpp say where it is faster than one vector after the other.
  static constexpr size_t kMinVectors = kNever;
  // Two leave registers for 128 rows, which share each load of a table.
  static constexpr size_t kVectors = 2;
  static constexpr size_t kTableBytes = kTableBytesI8, kLineRows = 64 / W16::kCellBytes;

  // All groups, in word column 0: a word may have ranks of two.
  struct Layout {
    Layout(const RankedRows& a, const Grouping&) : index(a.index), columns(a.columns) {}
    const uint8_t* at(size_t, size_t r) const {
      const size_t strip = r / W16::kStripRows * W16::kStripRows;
      return index + (strip * columns + r - strip) * W16::kCellBytes;
    }

    const uint8_t* index;
    size_t columns;
  };

  static void build_tables(const int8_t* x, const int16_t* patterns, int k, size_t blocks,
                           size_t step, char* t) {
    with_k(k, [&](auto K) {
      for (size_t b = 0; b < blocks; b++, x += k, t += step)
        build_tables_i8<K>(x, patterns, k, 1, t);
    });
  }

  static size_t rows_at_once(size_t rows, size_t width) {
    return Kernel::rows_at_once(rows, width);
  }

  // 32 R rows of T vectors.
  template <int R, int T>
  static void lookup_group(const GroupRun& group) {
    const uint16_t* const words = reinterpret_cast<const uint16_t*>(group.index);
    const uint16_t* const ahead = reinterpret_cast<const uint16_t*>(group.ahead);
    const char* t = group.tables;
    __m512i sum_i16x32[T][R];
    alignas(64) int32_t wide[T][R * 32];  // sums so far, if an int16 sum does not take the group
    const auto add_block = [&](const __m512i* ranks) {
      for (int i = 0; i < T; i++, t += kTableBytesI8) {
        const __m512i table = load(t);
        for (int r = 0; r < R; r++)
          sum_i16x32[i][r] =
              _mm512_add_epi16(sum_i16x32[i][r], _mm512_permutexvar_epi16(ranks[r], table));
      }
    };
    const auto add_rank = [&](size_t b) {
      const __m512i shift =
          _mm512_set1_epi16(static_cast<short>(W16::kRankBits * (b % W16::kBlocks)));
      __m512i ranks[R];
      for (int r = 0; r < R; r++)
        ranks[r] = _mm512_srlv_epi16(load(words + b / W16::kBlocks * group.height + 32 * r), shift);
      add_block(ranks);
    };
    bool is_wide = false;
    for (size_t b = group.begin;;) {
      const size_t stop = min(group.end, b + W16::kBlocks * group.columns_per_widen);
      for (auto& sums : sum_i16x32)
        for (auto& sum : sums) sum = _mm512_setzero_si512();
      for (; b < stop && b % W16::kBlocks; b++) add_rank(b);
      for (; b + W16::kBlocks <= stop; b += W16::kBlocks) {
        const size_t column = b / W16::kBlocks * group.height;
        __m512i ranks[R];
        for (int r = 0; r < R; r++) {
          _mm_prefetch(reinterpret_cast<const char*>(ahead + column + 32 * r), _MM_HINT_T1);
          ranks[r] = load(words + column + 32 * r);
        }
        add_block(ranks);
        __m512i next[R];
        for (int r = 0; r < R; r++) next[r] = _mm512_srli_epi16(ranks[r], 5);
        add_block(next);
        for (int r = 0; r < R; r++) next[r] = _mm512_srli_epi16(ranks[r], 10);
        add_block(next);
      }
      for (; b < stop; b++) add_rank(b);
      if (b == group.end) break;
      for (int i = 0; i < T; i++)
        for (int r = 0; r < R; r++) {
          int32_t* to = wide[i] + 32 * r;
          __m512i low = _mm512_setzero_si512(), high = low;
          if (is_wide) low = load(to), high = load(to + 16);
          add_widened(sum_i16x32[i][r], low, high);
          _mm512_store_si512(to, low);
          _mm512_store_si512(to + 16, high);
        }
      is_wide = true;
    }
    __m512 steps[T];
    for (int i = 0; i < T; i++) steps[i] = _mm512_set1_ps(group.steps[i]);
    for (int r = 0; r < R; r++) {
      const size_t entry = group.is_half ? 2 : 4;
      const char* scales = group.scales + 32 * r * entry;
      const __m512 one = _mm512_set1_ps(1.0f);
      const __m512 low_scale = sixteen_scales(scales, group.is_half, one);
      const __m512 high_scale = sixteen_scales(scales + 16 * entry, group.is_half, one);
      for (int i = 0; i < T; i++) {
        __m512i low = _mm512_setzero_si512(), high = low;
        if (is_wide) low = load(wide[i] + 32 * r), high = load(wide[i] + 32 * r + 16);
        add_widened(sum_i16x32[i][r], low, high);
        float* y = group.y + i * group.stride + 32 * r;
        __m512 first = _mm512_setzero_ps(), second = first;
        if (!group.is_first) first = _mm512_loadu_ps(y), second = _mm512_loadu_ps(y + 16);
        _mm512_storeu_ps(
            y, _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), _mm512_mul_ps(low_scale, steps[i]), first));
        _mm512_storeu_ps(y + 16, _mm512_fmadd_ps(_mm512_cvtepi32_ps(high),
                                                 _mm512_mul_ps(high_scale, steps[i]), second));
      }
    }
  }

  template <int R>
  static constexpr void (*kLookup[kVectors])(const GroupRun&) = {lookup_group<R, 1>,
                                                                 lookup_group<R, 2>};
  static auto lookup(size_t rows, size_t width) {
    return (rows == 128 ? kLookup<4> : rows == 64 ? kLookup<2> : kLookup<1>)[width - 1];
  }
};

}  // namespace

void fill_small_batch_avx512(KernelTable& table) {
  table.w16_i8.small_batch = SmallBatch<Kernel>::kBatch;
  table.w16_i8.small_grouped_batch = SmallGroupedBatch<GroupedKernel>::kBatch;
}

}  // namespace rsr
