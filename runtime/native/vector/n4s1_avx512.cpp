// One vector, packing n4s1, AVX-512 (F, BW, VL): a nibble of magnitude and a sign bit index the 32
// signed sums of a column block, which are looked up as in w16_avx512.h: 32 rows at once for int8,
// 16 for float32.
//
// What pays, besides what pays there:
// * The index is made for 64 rows at once, in bytes: one vpternlog joins the sign, moved to bit 4,
//   with the nibble. A lookup ignores the bits above, so that shifts bring the other bytes of a
//   wider lane to their place.
//
// Per unit and 64 rows (1536 multiply-adds), int8: 16 vpermw, 16 vpaddw, 15 vpmulhuw, 4 vpsllw,
// 8 vpternlogd, 13 loads. 59 operations on two ports: 30 cycles on Sapphire Rapids.
// float32: 32 vpermi2ps, 32 vaddps, 16 vpsrld, 15 vpmulhuw, 4 vpsllw, 8 vpternlogd, some 20 loads.
// 107 operations: 54 cycles.
#include "vector/group_scales_avx512.h"
#include "vector/n4s1.h"

namespace rsr {
namespace {

// Shifts of 16-bit lanes by multiplication (w16_avx512.h says why).
template <int By>
inline __m512i shift_right(__m512i v) {
  return _mm512_mulhi_epu16(v, _mm512_set1_epi16(static_cast<int16_t>(1u << (16 - By))));
}
template <int By>
inline __m512i shift_left(__m512i v) {
  return _mm512_mullo_epi16(v, _mm512_set1_epi16(1 << By));
}

// The sign of block J, bit 7 - J of its byte, in bit 4.
template <int J>
inline __m512i sign_in_bit_4(__m512i signs) {
  if constexpr (J < 3) return shift_right<3 - J>(signs);
  if constexpr (J == 3) return signs;
  if constexpr (J > 3) return shift_left<J - 3>(signs);
}

// The indices of 64 rows in block J, in the low five bits of each byte.
template <int J>
inline __m512i index_of(__m512i nibbles, __m512i signs) {
  constexpr int kSelect = 0xca;  // (A & B) | (~A & C)
  if constexpr (J % 2) nibbles = shift_right<4>(nibbles);
  return _mm512_ternarylogic_epi32(_mm512_set1_epi8(15), nibbles, sign_in_bit_4<J>(signs), kSelect);
}

// The vectors of a unit of N blocks (packing.h). If a strip has 32 rows, the upper 32 are zero.
struct Unit {
  __m512i nibbles[4], signs;
};

template <int R, int N = N4S1::kBlocks>  // R: rows / kRowUnit
inline Unit load_unit(const uint8_t* p, size_t height) {
  constexpr size_t kBytes = N4S1::unit_bytes(N);
  const __mmask64 rows = R == 2 ? ~__mmask64{0} : 0xffffffff;
  for (size_t line = 0; line < kBytes * kRowUnit * R; line += 64) prefetch(p + line);
  Unit unit;
  for (size_t i = 0; i < (N + 1) / 2; i++)
    unit.nibbles[i] = _mm512_maskz_loadu_epi8(rows, p + i * height);
  unit.signs = _mm512_maskz_loadu_epi8(rows, p + (kBytes - 1) * height);
  return unit;
}

// Calls body with each block of a unit of N blocks, as a constant.
template <int N = N4S1::kBlocks, int J = 0, class Body>
inline void for_each_block(const Body& body) {
  body(std::integral_constant<int, J>());
  if constexpr (J + 1 < N) for_each_block<N, J + 1>(body);
}

// Where the units of a strip are read: the next unit, and the table of its first block.
template <class Entry>
struct Position {
  const uint8_t* unit;
  size_t height;
  const Entry* t;

  Position(const RankedRows& rows, const void* tables)
      : unit(rows.index + rows.first),
        height(strip_height<N4S1>(rows.end)),
        t(static_cast<const Entry*>(tables)) {}

  // Calls body(unit, tables, block) with each block of the next unit, which has N; J is a constant.
  template <int R, int N, class Body>
  void next(const Body& body) {
    const Unit loaded = load_unit<R, N>(unit, height);
    for_each_block<N>([&](auto J) { body(loaded, t, J); });
    unit += N4S1::unit_bytes(N) * height;
    t += N * kPatterns;
  }

  // The same for all units of a run.
  template <int R, class Body>
  void next(const UnitRun& run, const Body& body) {
    for (size_t u = 0; u < run.units; u++) next<R, N4S1::kBlocks>(body);
    with_blocks(run.short_blocks, [&](auto N) { next<R, N>(body); });
  }
};

void build_tables_i8(const int8_t* x, const int16_t* patterns, int k, size_t blocks, void* tables) {
  int16_t* t = static_cast<int16_t*>(tables);
  for (size_t b = 0; b < blocks; b++, x += k, t += kPatterns) {
    __m256i sum_i16x16 = _mm256_setzero_si256();
    for (int d = 0; d < k; d++) {
      const __m256i digits =
          _mm256_maskz_loadu_epi16(0xffff, patterns + d * kPatterns + N4S1::kZeroRank);
      sum_i16x16 =
          _mm256_add_epi16(sum_i16x16, _mm256_mullo_epi16(_mm256_set1_epi16(x[d]), digits));
    }
    const __m256i negative = _mm256_sub_epi16(_mm256_setzero_si256(), sum_i16x16);
    _mm512_storeu_si512(t, _mm512_inserti64x4(_mm512_castsi256_si512(sum_i16x16), negative, 1));
  }
}

// Adds block J of 64 rows; a 16-bit lane holds rows 2i and 2i + 1.
template <int J>
inline void add_i8(const Unit& unit, const int16_t* t, __m512i& even_i16x32, __m512i& odd_i16x32) {
  const __m512i table = load(t + J * kPatterns);
  const __m512i index = index_of<J>(unit.nibbles[J / 2], unit.signs);
  even_i16x32 = _mm512_add_epi16(even_i16x32, _mm512_permutexvar_epi16(index, table));
  odd_i16x32 = _mm512_add_epi16(odd_i16x32, _mm512_permutexvar_epi16(shift_right<8>(index), table));
}

// Calls finish(group, even, odd) with the int32 sums of each group: of even rows and of odd rows,
// of rows 0-31 and 32-63.
// Bound: an int16 sum takes the entries of columns_per_widen units (packing.h), then it is widened.
template <int R, class Finish>
void lookup_groups_i8(const RankedRows& rows, const Grouping& grouping, const void* tables,
                      const Finish& finish) {
  Position<int16_t> at(rows, tables);
  for (size_t b = 0, g = 0; b < grouping.blocks; g++) {
    __m512i even_i32x16[2], odd_i32x16[2];
    for (int i = 0; i < 2; i++) even_i32x16[i] = odd_i32x16[i] = _mm512_setzero_si512();
    for (const size_t end = group_end(grouping, b); b < end;) {
      const UnitRun run(end - b, rows.columns_per_widen);
      __m512i even = _mm512_setzero_si512(), odd = even;
      at.next<R>(
          run, [&](const Unit& unit, const int16_t* t, auto J) { add_i8<J>(unit, t, even, odd); });
      add_widened(even, even_i32x16[0], even_i32x16[1]);
      add_widened(odd, odd_i32x16[0], odd_i32x16[1]);
      b += run.blocks();
    }
    finish(g, even_i32x16, odd_i32x16);
  }
}

// Without groups, all blocks are one group of whole units.
template <int R>
void lookup_i8(const RankedRows& rows, const void* tables, int32_t* y) {
  const size_t blocks = rows.columns * N4S1::kBlocks;
  const Grouping grouping = rows.grouping.blocks ? rows.grouping : Grouping{blocks, blocks};
  __m512i even_i32x16[R], odd_i32x16[R];
  for (int r = 0; r < R; r++) even_i32x16[r] = odd_i32x16[r] = _mm512_setzero_si512();
  lookup_groups_i8<R>(rows, grouping, tables, [&](size_t, const __m512i* even, const __m512i* odd) {
    for (int r = 0; r < R; r++) {
      even_i32x16[r] = _mm512_add_epi32(even_i32x16[r], even[r]);
      odd_i32x16[r] = _mm512_add_epi32(odd_i32x16[r], odd[r]);
    }
  });
  for (int r = 0; r < R; r++) store_even_and_odd(y + 32 * r, even_i32x16[r], odd_i32x16[r]);
}

// The factors of the sums of one group for 32 R rows in row order: their scales, times the step.
template <int R>
inline void load_factors(const GroupScales& scales, size_t group, __m512* factors) {
  const size_t entry = entry_bytes(scales);
  const char* p = static_cast<const char*>(scales.data) + group * scales.stride * entry;
  prefetch_scales(scales, p, 32 * R);
  const __m512 step = _mm512_set1_ps(step_of(scales, 0, group));
  for (int i = 0; i < 2 * R; i++)
    factors[i] = sixteen_scales(p + 16 * i * entry, scales.is_half, step);
}

template <int R>
void lookup_grouped_i8(const RankedRows& rows, const GroupScales& scales, const void* tables,
                       float* y) {
  const __m512i evens =
      _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odds = _mm512_add_epi32(evens, _mm512_set1_epi32(1));
  __m512 even_f32x16[R], odd_f32x16[R];
  for (int r = 0; r < R; r++) even_f32x16[r] = odd_f32x16[r] = _mm512_setzero_ps();
  lookup_groups_i8<R>(
      rows, scales.grouping, tables, [&](size_t g, const __m512i* even, const __m512i* odd) {
        __m512 factors[2 * R];
        load_factors<R>(scales, g, factors);
        for (int r = 0; r < R; r++) {
          const __m512 low = factors[2 * r], high = factors[2 * r + 1];
          even_f32x16[r] =
              _mm512_fmadd_ps(_mm512_cvtepi32_ps(even[r]), _mm512_permutex2var_ps(low, evens, high),
                              even_f32x16[r]);
          odd_f32x16[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(odd[r]),
                                          _mm512_permutex2var_ps(low, odds, high), odd_f32x16[r]);
        }
      });
  for (int r = 0; r < R; r++) store_even_and_odd(y + 32 * r, even_f32x16[r], odd_f32x16[r]);
}

void lookup_grouped_i8_any(const RankedRows& rows, const GroupScales& scales, const void* tables,
                           float* y) {
  with_units<N4S1>(rows, [&](auto R) { lookup_grouped_i8<R>(rows, scales, tables, y); });
}

void lookup_i8_any(const RankedRows& rows, const void* tables, int32_t* y) {
  with_units<N4S1>(rows, [&](auto R) { lookup_i8<R>(rows, tables, y); });
}

void build_tables_f32(const float* x, const float* patterns, int k, size_t blocks, void* tables) {
  float* t = static_cast<float*>(tables);
  for (size_t b = 0; b < blocks; b++, x += k, t += kPatterns) {
    __m512 sum_f32x16 = _mm512_setzero_ps();
    for (int d = k; d-- > 0;)
      sum_f32x16 =
          _mm512_fmadd_ps(_mm512_set1_ps(x[d]),
                          _mm512_loadu_ps(patterns + d * kPatterns + N4S1::kZeroRank), sum_f32x16);
    _mm512_storeu_ps(t, sum_f32x16);
    _mm512_storeu_ps(t + 16, _mm512_sub_ps(_mm512_setzero_ps(), sum_f32x16));
  }
}

// Adds block J of 64 rows: a 32-bit lane holds rows 4i to 4i + 3, sums[p] those of rows 4i + p.
template <int J>
inline void add_f32(const Unit& unit, const float* t, __m512* sums_f32x16) {
  const __m512 low = _mm512_loadu_ps(t + J * kPatterns),
               high = _mm512_loadu_ps(t + J * kPatterns + 16);
  __m512i index[4];
  index[0] = index_of<J>(unit.nibbles[J / 2], unit.signs);
  index[1] = shift_right<8>(index[0]);
  index[2] = _mm512_srli_epi32(index[0], 16);
  index[3] = _mm512_srli_epi32(index[1], 16);
  for (int p = 0; p < 4; p++)
    sums_f32x16[p] = _mm512_add_ps(sums_f32x16[p], _mm512_permutex2var_ps(low, index[p], high));
}

// Writes the sums of 32 R rows in row order.
template <int R>
inline void store_rows(const __m512* sums_f32x16, float* y) {
  alignas(64) float in_lanes[4][16];
  for (int i = 0; i < 4; i++) _mm512_store_ps(in_lanes[i], sums_f32x16[i]);
  for (int r = 0; r < 32 * R; r++) y[r] = in_lanes[r % 4][r / 4];
}

template <int R>
void lookup_f32(const RankedRows& rows, const void* tables, float* y) {
  Position<float> at(rows, tables);
  __m512 sums[4];
  for (auto& sum : sums) sum = _mm512_setzero_ps();
  for (size_t u = 0; u < rows.columns; u++)
    at.next<R, N4S1::kBlocks>(
        [&](const Unit& unit, const float* t, auto J) { add_f32<J>(unit, t, sums); });
  store_rows<R>(sums, y);
}

// The factors of rows 4i + p, from those of 64 or 32 rows in row order.
template <int R>
inline __m512 every_fourth(const __m512* factors, int p) {
  const __m512i fours = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
  const __m512i places = _mm512_add_epi32(fours, _mm512_set1_epi32(p));
  const __m512 low = _mm512_permutex2var_ps(factors[0], places, factors[1]);
  if constexpr (R == 1) return low;
  const __m512 high = _mm512_permutex2var_ps(factors[2 * R - 2], places, factors[2 * R - 1]);
  return _mm512_mask_blend_ps(0xff00, low, high);
}

template <int R>
void lookup_grouped_f32(const RankedRows& rows, const GroupScales& scales, const void* tables,
                        float* y) {
  Position<float> at(rows, tables);
  __m512 scaled[4];
  for (auto& sum : scaled) sum = _mm512_setzero_ps();
  for (size_t b = 0, g = 0; b < scales.grouping.blocks; g++) {
    const size_t end = group_end(scales.grouping, b);
    __m512 sums[4], factors[2 * R];
    for (auto& sum : sums) sum = _mm512_setzero_ps();
    at.next<R>(UnitRun(end - b, end - b),
               [&](const Unit& unit, const float* t, auto J) { add_f32<J>(unit, t, sums); });
    b = end;
    load_factors<R>(scales, g, factors);
    for (int p = 0; p < 4; p++)
      scaled[p] = _mm512_fmadd_ps(sums[p], every_fourth<R>(factors, p), scaled[p]);
  }
  store_rows<R>(scaled, y);
}

void lookup_grouped_f32_any(const RankedRows& rows, const GroupScales& scales, const void* tables,
                            float* y) {
  with_units<N4S1>(rows, [&](auto R) { lookup_grouped_f32<R>(rows, scales, tables, y); });
}

void lookup_f32_any(const RankedRows& rows, const void* tables, float* y) {
  with_units<N4S1>(rows, [&](auto R) { lookup_f32<R>(rows, tables, y); });
}

}  // namespace

void fill_n4s1_avx512(KernelTable& table) {
  table.n4s1_i8.vector = {kPatterns * sizeof(int16_t), 0, build_tables_i8, lookup_i8_any,
                          lookup_grouped_i8_any};
  table.n4s1_f32.vector = {kPatterns * sizeof(float), 0, build_tables_f32, lookup_f32_any,
                           lookup_grouped_f32_any};
}

}  // namespace rsr
