// A few int8 vectors at once, packing w16, AVX-512 (vector/w16_avx512.h): the words are read and
// shifted once for a set of kSetVectors vectors. What remains is a lookup and an addition for 96
// multiply-adds.
//
// Tables are stored in the order in which they are read: sets of vectors, then word columns, then
// the vectors of the set. A run of columns_per_widen word columns keeps the tables of a set in L1
// and the words of kPassRows rows in L2, and widens each int16 sum once.
//
// Per word column, 64 rows and 4 vectors (768 k multiply-adds): 24 vpermw, 24 vpaddw, 4 vpsrlw, 12
// loads of tables, 2 of words. 52 operations on two ports: 26 cycles on Sapphire Rapids.
#include "vector/w16_avx512.h"

namespace rsr {
namespace {

constexpr size_t kSetVectors = 4;
constexpr size_t kPassRows = 2048;
constexpr size_t kColumnTableBytes = W16::kBlocks * kTableBytesI8;

size_t shared_bytes(size_t columns, int, size_t count) {
  return (count + kSetVectors - 1) / kSetVectors * kSetVectors * columns * kColumnTableBytes;
}

size_t no_bytes(size_t, int, size_t) { return 0; }

template <int K>
void prepare_i8(const int8_t* x, const int16_t* patterns, int k, size_t columns, size_t first,
                size_t last, char* tables) {
  for (size_t i = first; i < last; i++) {
    const int8_t* xi = x + i * columns * W16::kBlocks * k;
    char* t =
        tables + (i / kSetVectors * columns * kSetVectors + i % kSetVectors) * kColumnTableBytes;
    for (size_t g = 0; g < columns;
         g++, xi += W16::kBlocks * k, t += kSetVectors * kColumnTableBytes)
      build_tables_i8<K>(xi, patterns, k, W16::kBlocks, t);
  }
}

void prepare_i8_any(const int8_t* x, const int16_t* patterns, int k, size_t columns, size_t,
                    size_t first, size_t last, void* shared) {
  char* t = static_cast<char*>(shared);
  k == 3 ? prepare_i8<3>(x, patterns, k, columns, first, last, t)
         : prepare_i8<0>(x, patterns, k, columns, first, last, t);
}

// Adds `columns` word columns of 32 R rows to the sums of T vectors; the first run stores instead.
// `ahead` is what will be read next: a run is too short for the hardware prefetcher to predict it.
// Bound: columns <= columns_per_widen, which an int16 sum takes.
template <int R, int T>
void lookup_set(const uint16_t* words, const uint16_t* ahead, size_t height, size_t columns,
                const char* t, bool is_first, int32_t* y, size_t stride) {
  __m512i sum_i16x32[T][R];
  for (auto& sums : sum_i16x32)
    for (auto& sum : sums) sum = _mm512_setzero_si512();
  for (size_t g = 0; g < columns;
       g++, words += height, ahead += height, t += kSetVectors * kColumnTableBytes) {
    for (int r = 0; r < R; r++)
      _mm_prefetch(reinterpret_cast<const char*>(ahead + 32 * r), _MM_HINT_T1);
    __m512i w0[R], w1[R], w2[R];
    for (int r = 0; r < R; r++) {
      w0[r] = load(words + 32 * r);
      w1[r] = _mm512_srli_epi16(w0[r], 5);
      w2[r] = _mm512_srli_epi16(w0[r], 10);
    }
    for (int i = 0; i < T; i++) {
      const char* ti = t + i * kColumnTableBytes;
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
      const __m512i sum = sum_i16x32[i][r];
      int32_t* out = y + i * stride + 32 * r;
      __m512i low = _mm512_cvtepi16_epi32(_mm512_castsi512_si256(sum));
      __m512i high = _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(sum, 1));
      if (!is_first) {
        low = _mm512_add_epi32(low, load(out));
        high = _mm512_add_epi32(high, load(out + 16));
      }
      _mm512_storeu_si512(out, low);
      _mm512_storeu_si512(out + 16, high);
    }
  }
}

using LookupSet = void (*)(const uint16_t*, const uint16_t*, size_t, size_t, const char*, bool,
                           int32_t*, size_t);
template <int R>
constexpr LookupSet kLookupSet[kSetVectors] = {lookup_set<R, 1>, lookup_set<R, 2>, lookup_set<R, 3>,
                                               lookup_set<R, 4>};

void multiply(const RankedRows& a, const int16_t*, int, const void* shared, size_t count, void*,
              int32_t* y, size_t stride) {
  const char* tables = static_cast<const char*>(shared);
  constexpr size_t kStripRows = W16::kStripRows;
  const auto height_at = [&](size_t r) {
    return strip_height<W16>(a.end - r / kStripRows * kStripRows);
  };
  const auto words_at = [&](size_t r, size_t g) {
    return reinterpret_cast<const uint16_t*>(a.index) + r / kStripRows * kStripRows * a.columns +
           g * height_at(r) + r % kStripRows;
  };
  for (size_t top = a.first; top < a.last; top += kPassRows) {
    const size_t bottom = a.last - top < kPassRows ? a.last : top + kPassRows;
    for (size_t g = 0; g < a.columns; g += a.columns_per_widen) {
      const size_t left = a.columns - g;
      const size_t run = left < a.columns_per_widen ? left : a.columns_per_widen;
      for (size_t i = 0; i < count; i += kSetVectors) {
        const size_t width = count - i < kSetVectors ? count - i : kSetVectors;
        const char* t = tables + (i * a.columns + g * kSetVectors) * kColumnTableBytes;
        for (size_t r = top, step; r < bottom; r += step) {
          const size_t in_strip = height_at(r) - r % kStripRows;
          const size_t wanted = bottom - r < in_strip ? bottom - r : in_strip;
          // Fewer vectors leave registers for more rows, which then share each table load.
          step = wanted >= 128 && width < kSetVectors ? 128 : wanted >= 64 ? 64 : 32;
          const LookupSet* lookup = step == 128  ? kLookupSet<4>
                                    : step == 64 ? kLookupSet<2>
                                                 : kLookupSet<1>;
          const size_t below = r + kStripRows;
          const uint16_t* words = words_at(r, g);
          const uint16_t* ahead = i > 0                 ? words
                                  : below < bottom      ? words_at(below, g)
                                  : g + run < a.columns ? words_at(top, g + run)
                                                        : words;
          lookup[width - 1](words, ahead, height_at(r), run, t, g == 0,
                            y + i * stride + (r - a.first), stride);
        }
      }
    }
  }
}

}  // namespace

void fill_small_batch_avx512(KernelTable& table) {
  table.w16_i8.small_batch = {2, 16, shared_bytes, no_bytes, prepare_i8_any, multiply, 1};
}

}  // namespace rsr
