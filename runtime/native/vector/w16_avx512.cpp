// One vector, packing w16, AVX-512 (w16_avx512.h).
#include "vector/w16_avx512.h"

namespace rsr {
namespace {

void build_tables_i8_any(const int8_t* x, const int16_t* patterns, int k, size_t blocks,
                         void* tables) {
  with_k(k,
         [&](auto K) { build_tables_i8<K>(x, patterns, k, blocks, static_cast<char*>(tables)); });
}

// Bound: an int16 sum takes the entries of columns_per_widen columns (packing.h), then it is
// widened.
template <class Style, int R>  // R: row units
void lookup_i8(const RankedRows& rows, const void* tables, int32_t* y) {
  const uint16_t* words = words_of(rows);
  const size_t height = strip_height<W16>(rows.end);
  const char* t = static_cast<const char*>(tables);
  __m512i low_i32x16[R], high_i32x16[R];
  for (int r = 0; r < R; r++) low_i32x16[r] = high_i32x16[r] = _mm512_setzero_si512();
  for (size_t g = 0; g < rows.columns;) {
    const size_t stop = min(rows.columns, g + rows.columns_per_widen);
    __m512i sum_i16x32[R];
    for (int r = 0; r < R; r++) sum_i16x32[r] = _mm512_setzero_si512();
    for (; g < stop; g++, words += height, t += W16::kBlocks * kTableBytesI8)
      add_words_i8<Style, R>(words, t, sum_i16x32);
    for (int r = 0; r < R; r++) add_widened(sum_i16x32[r], low_i32x16[r], high_i32x16[r]);
  }
  for (int r = 0; r < R; r++) {
    _mm512_storeu_si512(y + 32 * r, low_i32x16[r]);
    _mm512_storeu_si512(y + 32 * r + 16, high_i32x16[r]);
  }
}

template <int K>
void build_tables_f32(const float* x, const float* patterns, int k, size_t blocks, float* t) {
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

void build_tables_f32_any(const float* x, const float* patterns, int k, size_t blocks,
                          void* tables) {
  with_k(k,
         [&](auto K) { build_tables_f32<K>(x, patterns, k, blocks, static_cast<float*>(tables)); });
}

template <class Style, int R>
void lookup_f32(const RankedRows& rows, const void* tables, float* y) {
  const uint16_t* words = words_of(rows);
  const size_t height = strip_height<W16>(rows.end);
  const float* t = static_cast<const float*>(tables);
  __m512 even_f32x16[R], odd_f32x16[R];
  for (int r = 0; r < R; r++) even_f32x16[r] = odd_f32x16[r] = _mm512_setzero_ps();
  for (size_t g = 0; g < rows.columns; g++, words += height, t += W16::kBlocks * kPatterns)
    add_words_f32<Style, R>(words, t, even_f32x16, odd_f32x16);
  for (int r = 0; r < R; r++) store_even_and_odd(y + 32 * r, even_f32x16[r], odd_f32x16[r]);
}

template <class Style>
void lookup_i8_any(const RankedRows& rows, const void* tables, int32_t* y) {
  with_units<W16>(rows, [&](auto R) { lookup_i8<Style, R>(rows, tables, y); });
}

template <class Style>
void lookup_f32_any(const RankedRows& rows, const void* tables, float* y) {
  with_units<W16>(rows, [&](auto R) { lookup_f32<Style, R>(rows, tables, y); });
}

}  // namespace

void fill_w16_avx512(KernelTable& table) {
  with_style([&](auto style) {
    using Style = decltype(style);
    table.w16_i8.vector = {kTableBytesI8, 0, build_tables_i8_any, lookup_i8_any<Style>};
    table.w16_f32.vector = {kTableBytesF32, 0, build_tables_f32_any,
                            lookup_f32_any<typename Style::Float>};
  });
}

}  // namespace rsr
