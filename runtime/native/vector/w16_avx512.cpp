// AVX-512 (F, BW, VL): the 32 sums of a column block fill one register of int16 or two of float32,
// so adding a block for 32 rows is one in-register lookup of 32 words (vpermw, vpermi2ps).
//
// What pays, measured (docs/performance.md):
// * The lookup uses the low five bits of an index and ignores the rest: no masking.
// * Indices are shifted by multiplication (vpmulhuw by 2^11 is a shift right by 5): shifts share
//   the port of the lookups on AMD Zen 4, multiplications do not. +15 % int8, +30 % float32 there.
//   (Intel has both on one port, so there it should make no difference.)
// * The accumulators of a whole strip stay in registers and the index is read once, in order.
// * Prefetching 12 KiB ahead into L2 lets the memory work while we look up: from DRAM 1.4 x for
//   int8 and 1.8 x for float32 over a distance of 1 KiB into L1, where the few line-fill buffers
//   run out. A second prefetch, 1 KiB ahead from L2 into L1, gives another 5 %.
#include <immintrin.h>

#include "table.h"

namespace rsr {
namespace {

constexpr size_t kStripRows = 128;
constexpr size_t kTableBytesI8 = 64, kTableBytesF32 = 128;  // of a column block

inline void prefetch(const uint16_t* words) {
  const char* p = reinterpret_cast<const char*>(words);
  _mm_prefetch(p + 12288, _MM_HINT_T1);
  _mm_prefetch(p + 1024, _MM_HINT_T0);
}

inline __m512i load(const void* p) { return _mm512_loadu_si512(p); }

// Entry index % 32 of the table at `t`, for 32 words, with the table as a memory operand: left to
// itself the compiler keeps three tables in registers, which is no slower from cache but leaves
// main memory idle for longer (docs/performance.md).
inline __m512i entries(const char* t, __m512i index) {
#if defined(__GNUC__)
  __m512i found;
  asm("vpermw %2, %1, %0" : "=v"(found) : "v"(index), "m"(*reinterpret_cast<const __m512i*>(t)));
  return found;
#else
  return _mm512_permutexvar_epi16(index, load(t));
#endif
}

// Loads once what the compiler would otherwise load again for every use.
inline __m512i load_once(const void* p) {
  __m512i v = load(p);
#if defined(__GNUC__)
  asm volatile("" : "+v"(v));
#endif
  return v;
}

// K: k where it is known (the patterns then stay in registers), 0 for any.
template <int K>
void grow_i8(const int8_t* x, const int16_t* patterns, int k, size_t blocks, char* t) {
  const int digits = K ? K : k;
  for (size_t b = 0; b < blocks; b++, x += digits, t += kTableBytesI8) {
    __m512i sum_i16x32 = _mm512_setzero_si512();
    for (int d = 0; d < digits; d++)
      sum_i16x32 = _mm512_add_epi16(
          sum_i16x32, _mm512_mullo_epi16(_mm512_set1_epi16(x[d]), load(patterns + d * kPatterns)));
    _mm512_storeu_si512(t, sum_i16x32);
  }
}

void grow_i8_any(const int8_t* x, const int16_t* patterns, int k, size_t blocks, void* tables) {
  char* t = static_cast<char*>(tables);
  k == 3 ? grow_i8<3>(x, patterns, k, blocks, t) : grow_i8<0>(x, patterns, k, blocks, t);
}

template <int R>
inline void add_words_i8(const uint16_t* words, const char* t, __m512i* sum_i16x32) {
  const __m512i by5 = _mm512_set1_epi16(1 << 11), by10 = _mm512_set1_epi16(1 << 6);
  for (int r = 0; r < R; r++) {
    prefetch(words + 32 * r);
    const __m512i w = load_once(words + 32 * r);
    const __m512i v0 = entries(t, w);
    const __m512i v1 = entries(t + 64, _mm512_mulhi_epu16(w, by5));
    const __m512i v2 = entries(t + 128, _mm512_mulhi_epu16(w, by10));
    sum_i16x32[r] = _mm512_add_epi16(sum_i16x32[r], _mm512_add_epi16(_mm512_add_epi16(v0, v1), v2));
  }
}

// Bound: an int16 sum takes 3 * flush entries of at most 128 k (kernels.h), then is widened.
template <int R>  // rows / 32
void lookup_i8(const uint16_t* words, size_t height, size_t columns, size_t flush,
               const void* tables, int32_t* y) {
  const char* t = static_cast<const char*>(tables);
  __m512i low_i32x16[R], high_i32x16[R];
  for (int r = 0; r < R; r++) low_i32x16[r] = high_i32x16[r] = _mm512_setzero_si512();
  for (size_t g = 0; g < columns;) {
    const size_t stop = columns - g < flush ? columns : g + flush;
    __m512i sum_i16x32[R];
    for (int r = 0; r < R; r++) sum_i16x32[r] = _mm512_setzero_si512();
    for (; g < stop; g++, words += height, t += 3 * kTableBytesI8) {
      add_words_i8<R>(words, t, sum_i16x32);
    }
    for (int r = 0; r < R; r++) {
      const __m512i s = sum_i16x32[r];
      low_i32x16[r] =
          _mm512_add_epi32(low_i32x16[r], _mm512_cvtepi16_epi32(_mm512_castsi512_si256(s)));
      high_i32x16[r] =
          _mm512_add_epi32(high_i32x16[r], _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(s, 1)));
    }
  }
  for (int r = 0; r < R; r++) {
    _mm512_storeu_si512(y + 32 * r, low_i32x16[r]);
    _mm512_storeu_si512(y + 32 * r + 16, high_i32x16[r]);
  }
}

// Several vectors at a time: the words are read and shifted once for up to kTogether vectors, and
// what is left is a lookup and an addition for 96 products of weight and input.
//
// Tables lie as they are read: vectors in groups of kTogether, then word columns, then the vectors
// of the group. Work goes by runs of `flush` word columns: the tables of a group are then in L1,
// the words of up to kRowsTogether rows in L2, and each int16 sum is widened once per run.
constexpr size_t kTogether = 4;
constexpr size_t kRowsTogether = 2048;
constexpr size_t kGrown = 3 * kTableBytesI8;  // tables of a word column

size_t batch_shared_bytes(size_t columns, int, size_t count) {
  return (count + kTogether - 1) / kTogether * kTogether * columns * kGrown;
}

size_t no_bytes(size_t, int, size_t) { return 0; }

template <int K>
void prepare_i8(const int8_t* x, const int16_t* patterns, int k, size_t columns, size_t first,
                size_t last, char* tables) {
  for (size_t i = first; i < last; i++) {
    const int8_t* xi = x + i * columns * 3 * k;
    char* t = tables + (i / kTogether * columns * kTogether + i % kTogether) * kGrown;
    for (size_t g = 0; g < columns; g++, xi += 3 * k, t += kTogether * kGrown)
      grow_i8<K>(xi, patterns, k, 3, t);
  }
}

void prepare_i8_any(const int8_t* x, const int16_t* patterns, int k, size_t columns, size_t,
                    size_t first, size_t last, void* shared) {
  char* t = static_cast<char*>(shared);
  k == 3 ? prepare_i8<3>(x, patterns, k, columns, first, last, t)
         : prepare_i8<0>(x, patterns, k, columns, first, last, t);
}

// Adds (or, for the first run, stores) what `columns` word columns give 32 R rows of T vectors.
// `ahead` is what will be read next: a run is too short for the processor to see where it leads.
// Bound: 3 * columns <= 3 * flush entries of at most 128 k in an int16 sum.
template <int R, int T>
void lookup_together(const uint16_t* words, const uint16_t* ahead, size_t height, size_t columns,
                     const char* t, bool is_first, int32_t* y, size_t stride) {
  __m512i sum_i16x32[T][R];
  for (auto& sums : sum_i16x32)
    for (auto& sum : sums) sum = _mm512_setzero_si512();
  for (size_t g = 0; g < columns; g++, words += height, ahead += height, t += kTogether * kGrown) {
    for (int r = 0; r < R; r++)
      _mm_prefetch(reinterpret_cast<const char*>(ahead + 32 * r), _MM_HINT_T1);
    __m512i w0[R], w1[R], w2[R];
    for (int r = 0; r < R; r++) {
      w0[r] = load(words + 32 * r);
      w1[r] = _mm512_srli_epi16(w0[r], 5);
      w2[r] = _mm512_srli_epi16(w0[r], 10);
    }
    for (int i = 0; i < T; i++) {
      const char* ti = t + i * kGrown;
      const __m512i t0 = load(ti), t1 = load(ti + 64), t2 = load(ti + 128);
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

using LookupTogether = void (*)(const uint16_t*, const uint16_t*, size_t, size_t, const char*, bool,
                                int32_t*, size_t);
template <int R>
constexpr LookupTogether kLookupTogether[kTogether] = {
    lookup_together<R, 1>, lookup_together<R, 2>, lookup_together<R, 3>, lookup_together<R, 4>};

void multiply_together(const RankedRows& a, const int16_t*, int, const void* shared, size_t count,
                       void*, int32_t* y, size_t stride) {
  const char* tables = static_cast<const char*>(shared);
  const auto height_at = [&](size_t r) {
    const size_t left = a.end - r / kStripRows * kStripRows;
    return left < kStripRows ? left : kStripRows;
  };
  const auto words_at = [&](size_t r, size_t g) {
    return reinterpret_cast<const uint16_t*>(a.index) + r / kStripRows * kStripRows * a.columns +
           g * height_at(r) + r % kStripRows;
  };
  for (size_t top = a.first; top < a.last; top += kRowsTogether) {
    const size_t bottom = a.last - top < kRowsTogether ? a.last : top + kRowsTogether;
    for (size_t g = 0; g < a.columns; g += a.flush) {
      const size_t run = a.columns - g < a.flush ? a.columns - g : a.flush;
      for (size_t i = 0; i < count; i += kTogether) {
        const size_t together = count - i < kTogether ? count - i : kTogether;
        const char* t = tables + (i * a.columns + g * kTogether) * kGrown;
        for (size_t r = top, step; r < bottom; r += step) {
          const size_t in_strip = height_at(r) - r % kStripRows;
          const size_t wanted = bottom - r < in_strip ? bottom - r : in_strip;
          // Few vectors leave registers for more rows, which then share a table once loaded.
          step = wanted >= 128 && together < kTogether ? 128 : wanted >= 64 ? 64 : 32;
          const LookupTogether* lookup = step == 128  ? kLookupTogether<4>
                                         : step == 64 ? kLookupTogether<2>
                                                      : kLookupTogether<1>;
          const size_t below = r + kStripRows;
          const uint16_t* words = words_at(r, g);
          const uint16_t* ahead = i > 0                 ? words
                                  : below < bottom      ? words_at(below, g)
                                  : g + run < a.columns ? words_at(top, g + run)
                                                        : words;
          lookup[together - 1](words, ahead, height_at(r), run, t, g == 0,
                               y + i * stride + (r - a.first), stride);
        }
      }
    }
  }
}

template <int K>
void grow_f32(const float* x, const float* patterns, int k, size_t blocks, float* t) {
  const int digits = K ? K : k;
  for (size_t b = 0; b < blocks; b++, x += digits, t += kPatterns) {
    __m512 low = _mm512_setzero_ps(), high = _mm512_setzero_ps();
    for (int d = digits; d-- > 0;) {
      const __m512 v = _mm512_set1_ps(x[d]);
      low = _mm512_fmadd_ps(v, _mm512_loadu_ps(patterns + d * kPatterns), low);
      high = _mm512_fmadd_ps(v, _mm512_loadu_ps(patterns + d * kPatterns + 16), high);
    }
    _mm512_storeu_ps(t, low);
    _mm512_storeu_ps(t + 16, high);
  }
}

void grow_f32_any(const float* x, const float* patterns, int k, size_t blocks, void* tables) {
  float* t = static_cast<float*>(tables);
  k == 3 ? grow_f32<3>(x, patterns, k, blocks, t) : grow_f32<0>(x, patterns, k, blocks, t);
}

inline void store_even_and_odd(float* y, __m512 even, __m512 odd) {
  const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  _mm512_storeu_ps(y, _mm512_permutex2var_ps(even, first, odd));
  _mm512_storeu_ps(y + 16, _mm512_permutex2var_ps(even, second, odd));
}

// A 32-bit lane holds the words of rows 2i (low half) and 2i + 1 (high half): the even rows look
// up with the word as it lies, the odd rows with the word shifted down.

template <int R>
inline void add_words_f32(const uint16_t* words, const float* t, __m512* even_f32x16,
                          __m512* odd_f32x16) {
  const __m512i by5 = _mm512_set1_epi16(1 << 11), by10 = _mm512_set1_epi16(1 << 6);
  __m512i even_u32x16[R], odd_u32x16[R];
  for (int r = 0; r < R; r++) {
    prefetch(words + 32 * r);
    even_u32x16[r] = load(words + 32 * r);
    odd_u32x16[r] = _mm512_srli_epi32(even_u32x16[r], 16);
  }
  for (int i = 0; i < 3; i++) {
    const __m512 low = _mm512_loadu_ps(t + i * kPatterns);
    const __m512 high = _mm512_loadu_ps(t + i * kPatterns + 16);
    for (int r = 0; r < R; r++) {
      __m512i even = even_u32x16[r], odd = odd_u32x16[r];
      if (i == 1) even = _mm512_mulhi_epu16(even, by5), odd = _mm512_mulhi_epu16(odd, by5);
      if (i == 2) even = _mm512_mulhi_epu16(even, by10), odd = _mm512_mulhi_epu16(odd, by10);
      even_f32x16[r] = _mm512_add_ps(even_f32x16[r], _mm512_permutex2var_ps(low, even, high));
      odd_f32x16[r] = _mm512_add_ps(odd_f32x16[r], _mm512_permutex2var_ps(low, odd, high));
    }
  }
}

template <int R>
void lookup_f32(const uint16_t* words, size_t height, size_t columns, const void* tables,
                float* y) {
  const float* t = static_cast<const float*>(tables);
  __m512 even_f32x16[R], odd_f32x16[R];
  for (int r = 0; r < R; r++) even_f32x16[r] = odd_f32x16[r] = _mm512_setzero_ps();
  for (size_t g = 0; g < columns; g++, words += height, t += 3 * kPatterns)
    add_words_f32<R>(words, t, even_f32x16, odd_f32x16);
  for (int r = 0; r < R; r++) store_even_and_odd(y + 32 * r, even_f32x16[r], odd_f32x16[r]);
}

void lookup_i8_any(const RankedRows& rows, const void* tables, int32_t* y) {
  const size_t height = rows.end < kStripRows ? rows.end : kStripRows;
  const uint16_t* words = reinterpret_cast<const uint16_t*>(rows.index) + rows.first;
  switch ((rows.last - rows.first) / 32) {
    case 1:
      return lookup_i8<1>(words, height, rows.columns, rows.flush, tables, y);
    case 2:
      return lookup_i8<2>(words, height, rows.columns, rows.flush, tables, y);
    case 3:
      return lookup_i8<3>(words, height, rows.columns, rows.flush, tables, y);
    default:
      return lookup_i8<4>(words, height, rows.columns, rows.flush, tables, y);
  }
}

void lookup_f32_any(const RankedRows& rows, const void* tables, float* y) {
  const size_t height = rows.end < kStripRows ? rows.end : kStripRows;
  const uint16_t* words = reinterpret_cast<const uint16_t*>(rows.index) + rows.first;
  switch ((rows.last - rows.first) / 32) {
    case 1:
      return lookup_f32<1>(words, height, rows.columns, tables, y);
    case 2:
      return lookup_f32<2>(words, height, rows.columns, tables, y);
    case 3:
      return lookup_f32<3>(words, height, rows.columns, tables, y);
    default:
      return lookup_f32<4>(words, height, rows.columns, tables, y);
  }
}

// Scales of groups of columns. A group's sums stay in registers until they are scaled and added to
// the rows' own; a group may begin and end inside a word, whose other ranks are then left alone.

// int16 sums of a group in the order of the rows, widened to int32 on the way.
template <int R>
struct GroupSumsI8 {
  __m512i low_i32x16[R], high_i32x16[R], sum_i16x32[R];

  static constexpr size_t kTableBytes = kTableBytesI8;
  void clear() {
    for (int r = 0; r < R; r++)
      low_i32x16[r] = high_i32x16[r] = sum_i16x32[r] = _mm512_setzero_si512();
  }
  void add_rank(const uint16_t* words, const char* t, __m512i shift) {
    for (int r = 0; r < R; r++)
      sum_i16x32[r] = _mm512_add_epi16(
          sum_i16x32[r], entries(t, _mm512_srlv_epi16(load_once(words + 32 * r), shift)));
  }
  void add_word(const uint16_t* words, const char* t) { add_words_i8<R>(words, t, sum_i16x32); }
  void widen() {
    for (int r = 0; r < R; r++) {
      const __m512i s = sum_i16x32[r];
      low_i32x16[r] =
          _mm512_add_epi32(low_i32x16[r], _mm512_cvtepi16_epi32(_mm512_castsi512_si256(s)));
      high_i32x16[r] =
          _mm512_add_epi32(high_i32x16[r], _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(s, 1)));
      sum_i16x32[r] = _mm512_setzero_si512();
    }
  }
  void scale(int r, __m512 low_scale, __m512 high_scale, __m512& low, __m512& high) const {
    low = _mm512_fmadd_ps(_mm512_cvtepi32_ps(low_i32x16[r]), low_scale, low);
    high = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high_i32x16[r]), high_scale, high);
  }
  static void store(float* y, __m512 low, __m512 high) {
    _mm512_storeu_ps(y, low);
    _mm512_storeu_ps(y + 16, high);
  }
};

// float32 sums of a group: those of the even rows and those of the odd.
template <int R>
struct GroupSumsF32 {
  __m512 even_f32x16[R], odd_f32x16[R];

  static constexpr size_t kTableBytes = kTableBytesF32;
  void clear() {
    for (int r = 0; r < R; r++) even_f32x16[r] = odd_f32x16[r] = _mm512_setzero_ps();
  }
  void add_rank(const uint16_t* words, const char* t, __m512i shift) {
    const __m512 low = _mm512_loadu_ps(reinterpret_cast<const float*>(t));
    const __m512 high = _mm512_loadu_ps(reinterpret_cast<const float*>(t) + 16);
    for (int r = 0; r < R; r++) {
      const __m512i even = _mm512_srlv_epi16(load(words + 32 * r), shift);
      const __m512i odd = _mm512_srli_epi32(even, 16);
      even_f32x16[r] = _mm512_add_ps(even_f32x16[r], _mm512_permutex2var_ps(low, even, high));
      odd_f32x16[r] = _mm512_add_ps(odd_f32x16[r], _mm512_permutex2var_ps(low, odd, high));
    }
  }
  void add_word(const uint16_t* words, const char* t) {
    add_words_f32<R>(words, reinterpret_cast<const float*>(t), even_f32x16, odd_f32x16);
  }
  void widen() {}
  void scale(int r, __m512 low_scale, __m512 high_scale, __m512& even, __m512& odd) const {
    const __m512i evens =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odds = _mm512_add_epi32(evens, _mm512_set1_epi32(1));
    even =
        _mm512_fmadd_ps(even_f32x16[r], _mm512_permutex2var_ps(low_scale, evens, high_scale), even);
    odd = _mm512_fmadd_ps(odd_f32x16[r], _mm512_permutex2var_ps(low_scale, odds, high_scale), odd);
  }
  static void store(float* y, __m512 even, __m512 odd) { store_even_and_odd(y, even, odd); }
};

inline __m512 sixteen_scales(const char* scales, bool is_half) {
  if (!is_half) return _mm512_loadu_ps(scales);
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)));
}

// Bound (int8): at most 3 * flush blocks between two calls of widen().
template <int R, class Sums>
void lookup_grouped(const uint16_t* words, size_t height, size_t flush, const GroupScales& scales,
                    const char* t, float* y) {
  __m512 first_f32x16[R], second_f32x16[R];  // 32 rows are in two registers, as Sums orders them
  for (int r = 0; r < R; r++) first_f32x16[r] = second_f32x16[r] = _mm512_setzero_ps();
  const size_t entry = scales.is_half ? 2 : 4, step = scales.stride * entry;
  const char* scale = static_cast<const char*>(scales.data);
  for (size_t b = 0; b < scales.total; scale += step) {
    const size_t end = b + scales.blocks < scales.total ? b + scales.blocks : scales.total;
    for (size_t i = 0; i < 32 * R * entry; i += 64) _mm_prefetch(scale + 8 * step + i, _MM_HINT_T0);
    Sums sums;
    sums.clear();
    while (b < end) {
      const size_t stop = end - b < 3 * flush ? end : b + 3 * flush;
      const auto add_rank = [&] {
        sums.add_rank(words + b / 3 * height, t + b * Sums::kTableBytes,
                      _mm512_set1_epi16(static_cast<short>(5 * (b % 3))));
        b++;
      };
      while (b < stop && b % 3) add_rank();
      for (; b + 3 <= stop; b += 3)
        sums.add_word(words + b / 3 * height, t + b * Sums::kTableBytes);
      while (b < stop) add_rank();
      sums.widen();
    }
    for (int r = 0; r < R; r++)
      sums.scale(r, sixteen_scales(scale + 32 * r * entry, scales.is_half),
                 sixteen_scales(scale + (32 * r + 16) * entry, scales.is_half), first_f32x16[r],
                 second_f32x16[r]);
  }
  for (int r = 0; r < R; r++) Sums::store(y + 32 * r, first_f32x16[r], second_f32x16[r]);
}

template <template <int> class Sums>
void lookup_grouped_any(const RankedRows& rows, const GroupScales& scales, const void* tables,
                        float* y) {
  const size_t height = rows.end < kStripRows ? rows.end : kStripRows;
  const uint16_t* words = reinterpret_cast<const uint16_t*>(rows.index) + rows.first;
  const char* t = static_cast<const char*>(tables);
  switch ((rows.last - rows.first) / 32) {
    case 1:
      return lookup_grouped<1, Sums<1>>(words, height, rows.flush, scales, t, y);
    case 2:
      return lookup_grouped<2, Sums<2>>(words, height, rows.flush, scales, t, y);
    case 3:
      return lookup_grouped<3, Sums<3>>(words, height, rows.flush, scales, t, y);
    default:
      return lookup_grouped<4, Sums<4>>(words, height, rows.flush, scales, t, y);
  }
}

uint64_t plain_read(const void* data, size_t bytes) {
  const char* p = static_cast<const char*>(data);
  __m512i s[4];
  for (auto& v : s) v = _mm512_setzero_si512();
  size_t i = 0;
  for (; i + 256 <= bytes; i += 256)
    for (int j = 0; j < 4; j++) s[j] = _mm512_add_epi64(s[j], load(p + i + 64 * j));
  uint64_t sum = _mm512_reduce_add_epi64(
      _mm512_add_epi64(_mm512_add_epi64(s[0], s[1]), _mm512_add_epi64(s[2], s[3])));
  for (; i < bytes; i++) sum += static_cast<unsigned char>(p[i]);
  return sum;
}

}  // namespace

void fill_w16_avx512(KernelTable& table) {
  table.w16_i8.vector = {kTableBytesI8, 0, grow_i8_any, lookup_i8_any,
                         lookup_grouped_any<GroupSumsI8>};
  table.w16_i8.batch[0] = {2, 16, batch_shared_bytes, no_bytes, prepare_i8_any, multiply_together,
                           1};
  table.w16_f32.vector = {kTableBytesF32, 0, grow_f32_any, lookup_f32_any,
                          lookup_grouped_any<GroupSumsF32>};
  table.plain_read = plain_read;
}

}  // namespace rsr
