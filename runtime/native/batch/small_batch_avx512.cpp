// A few int8 vectors at once, packing w16, AVX-512 (small_batch.h, vector/w16_avx512.h): the words
// are read and shifted once for a set. What remains is a lookup and an addition for 96
// multiply-adds.
//
// Per word column, 64 rows and 4 vectors (768 k multiply-adds): 24 vpermw, 24 vpaddw, 4 vpsrlw, 12
// loads of tables, 2 of words. 52 operations on two ports: 26 cycles on Sapphire Rapids.
#include "batch/small_batch.h"
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
  static auto lookup(size_t rows, size_t width) {
    return (rows == 128 ? kLookup<4> : rows == 64 ? kLookup<2> : kLookup<1>)[width - 1];
  }
};

}  // namespace

void fill_small_batch_avx512(KernelTable& table) {
  table.w16_i8.small_batch = SmallBatch<Kernel>::kBatch;
}

}  // namespace rsr
