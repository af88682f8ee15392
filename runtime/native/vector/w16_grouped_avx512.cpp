// One vector, packing w16 with scales of groups of columns, AVX-512 (w16_avx512.h).
//
// The sums of a group stay in registers until they are scaled and added to the rows. A group may
// begin and end inside a word; the word's other ranks are then skipped.
#include "vector/group_scales_avx512.h"
#include "vector/w16_avx512.h"

namespace rsr {
namespace {

// int16 sums of a group in row order, widened to int32 on the way.
template <class Style, int R>
struct GroupSumsI8 {
  __m512i low_i32x16[R], high_i32x16[R], sum_i16x32[R];

  static constexpr size_t kTableBytes = kTableBytesI8;
  void clear() {
    for (int r = 0; r < R; r++)
      low_i32x16[r] = high_i32x16[r] = sum_i16x32[r] = _mm512_setzero_si512();
  }
  void add_rank(const uint16_t* words, const char* t, __m512i shift) {
    const typename Style::TableI8 table(t);
    for (int r = 0; r < R; r++)
      sum_i16x32[r] = _mm512_add_epi16(
          sum_i16x32[r], table.entries(_mm512_srlv_epi16(load_once(words + 32 * r), shift)));
  }
  void add_word(const uint16_t* words, const char* t) {
    add_words_i8<Style, R>(words, t, sum_i16x32);
  }
  void widen() {
    for (int r = 0; r < R; r++) {
      add_widened(sum_i16x32[r], low_i32x16[r], high_i32x16[r]);
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

// float32 sums of a group, of even and of odd rows.
template <class Style, int R>
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
    add_words_f32<Style, R>(words, reinterpret_cast<const float*>(t), even_f32x16, odd_f32x16);
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

// Bound (int8): at most the blocks of columns_per_widen columns between two calls of widen().
template <int R, class Sums>
void lookup_grouped(const RankedRows& rows, const GroupScales& scales, const void* tables,
                    float* y) {
  const uint16_t* words = words_of(rows);
  const size_t height = strip_height<W16>(rows.end);
  const char* t = static_cast<const char*>(tables);
  __m512 first_f32x16[R], second_f32x16[R];  // of 32 rows, in the order that Sums defines
  for (int r = 0; r < R; r++) first_f32x16[r] = second_f32x16[r] = _mm512_setzero_ps();
  const size_t entry = entry_bytes(scales), group_bytes = scales.stride * entry;
  const size_t blocks_per_widen = W16::kBlocks * rows.columns_per_widen;
  const char* scale = static_cast<const char*>(scales.data);
  for (size_t b = 0, g = 0; b < scales.grouping.blocks; g++, scale += group_bytes) {
    const size_t end = group_end(scales.grouping, b);
    prefetch_scales(scales, scale, 32 * R);
    Sums sums;
    sums.clear();
    while (b < end) {
      const size_t stop = min(end, b + blocks_per_widen);
      const auto add_rank = [&] {
        sums.add_rank(words + b / W16::kBlocks * height, t + b * Sums::kTableBytes,
                      _mm512_set1_epi16(static_cast<short>(W16::kRankBits * (b % W16::kBlocks))));
        b++;
      };
      while (b < stop && b % W16::kBlocks) add_rank();
      for (; b + W16::kBlocks <= stop; b += W16::kBlocks)
        sums.add_word(words + b / W16::kBlocks * height, t + b * Sums::kTableBytes);
      while (b < stop) add_rank();
      sums.widen();
    }
    const __m512 step = _mm512_set1_ps(step_of(scales, 0, g));
    for (int r = 0; r < R; r++)
      sums.scale(r, sixteen_scales(scale + 32 * r * entry, scales.is_half, step),
                 sixteen_scales(scale + (32 * r + 16) * entry, scales.is_half, step),
                 first_f32x16[r], second_f32x16[r]);
  }
  for (int r = 0; r < R; r++) Sums::store(y + 32 * r, first_f32x16[r], second_f32x16[r]);
}

template <class Style, template <class, int> class Sums>
void lookup_grouped_any(const RankedRows& rows, const GroupScales& scales, const void* tables,
                        float* y) {
  with_units<W16>(rows,
                  [&](auto R) { lookup_grouped<R, Sums<Style, R>>(rows, scales, tables, y); });
}

}  // namespace

void fill_w16_grouped_avx512(KernelTable& table) {
  with_style([&](auto style) {
    using Style = decltype(style);
    table.w16_i8.vector.lookup_grouped = lookup_grouped_any<Style, GroupSumsI8>;
    table.w16_f32.vector.lookup_grouped = lookup_grouped_any<typename Style::Float, GroupSumsF32>;
  });
}

}  // namespace rsr
