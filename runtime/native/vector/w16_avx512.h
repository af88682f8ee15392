// Packing w16 on AVX-512 (F, BW, VL): the 32 sums of a column block fill one register of int16 or
// two of float32, so adding a block for 32 rows is one in-register lookup of 32 words (vpermw,
// vpermi2ps).
//
// What pays, measured (docs/lab-notes.md):
// * A lookup uses the low five bits of an index and ignores the others: no masking.
// * On Zen 4, multiplications shift the indices (vpmulhuw by 2^11 shifts right by 5): shifts share
//   a port with the lookups there and multiplications do not: +13 % for int8, +30 % for float32.
// * Where the tables of int8 are (tuning.h): in registers, one load serves four row units, which is
//   10 % faster from cache; as memory operands, they leave DRAM idle for less time on Zen 4.
// * The accumulators of a strip stay in registers, and the index is read once, in order.
//
// Per word column and 32 rows (96 k multiply-adds):
//   int8      3 vpermw, 2 shifts, 3 vpaddw, 1 load of words, 2 prefetches; tables are memory
//             operands of vpermw, or, per strip, 3 loads. 8 operations: 4 cycles on Sapphire
//             Rapids.
//   float32   6 vpermi2ps, 4 shifts, 1 vpsrld, 6 vaddps, 1 load of words and, per strip, 6 of
//             tables. 17 operations: 8.5 cycles on Sapphire Rapids.
//
// Internal linkage: each file that includes this compiles its own (table.h).
#pragma once
#include "avx512.h"
#include "table.h"

namespace rsr {
namespace {

constexpr size_t kTableBytesI8 = sizeof(int16_t) * kPatterns;  // of a column block
constexpr size_t kTableBytesF32 = sizeof(float) * kPatterns;
static_assert(kTableBytesI8 == sizeof(__m512i) && kTableBytesF32 == 2 * sizeof(__m512));

// Loads once; the compiler would otherwise load again for every use.
inline __m512i load_once(const void* p) {
  __m512i v = load(p);
#if defined(__GNUC__) || defined(__clang__)
  asm volatile("" : "+v"(v));
#endif
  return v;
}

// How lookups shift indices, and where the tables of int8 are (tuning.h).
template <bool IsShifting, bool InRegisters>
struct Style {
  using Float = Style<IsShifting, true>;  // tables of float32 are always in registers

  template <int By>
  static __m512i shifted(__m512i v) {
    if constexpr (IsShifting)
      return _mm512_srli_epi16(v, By);
    else
      return _mm512_mulhi_epu16(v, _mm512_set1_epi16(static_cast<short>(1u << (16 - By))));
  }

  // A table of int8 sums; entries(index): its entries index % 32.
  class TableI8 {
   public:
    explicit TableI8(const char* t) : memory_(t) {
      if constexpr (InRegisters) register_ = load_once(t);
    }
    __m512i entries(__m512i index) const {
      if constexpr (InRegisters) return _mm512_permutexvar_epi16(index, register_);
#if defined(__GNUC__) || defined(__clang__)
      // The compiler would keep the table in a register.
      __m512i found;
      asm("vpermw %2, %1, %0"
          : "=v"(found)
          : "v"(index), "m"(*reinterpret_cast<const __m512i*>(memory_)));
      return found;
#else
      return _mm512_permutexvar_epi16(index, load(memory_));
#endif
    }

   private:
    const char* memory_;
    __m512i register_;
  };
};

// Calls body with the style that `tuning` names.
template <class Body>
void with_style(const Body& body) {
  if (tuning.shifts)
    tuning.tables_in_registers ? body(Style<true, true>()) : body(Style<true, false>());
  else
    tuning.tables_in_registers ? body(Style<false, true>()) : body(Style<false, false>());
}

// K: k if it is 3 (the patterns then stay in registers); 0: any.
template <int K>
void build_tables_i8(const int8_t* x, const int16_t* patterns, int k, size_t blocks, char* t) {
  const int digits = K ? K : k;
  for (size_t b = 0; b < blocks; b++, x += digits, t += kTableBytesI8) {
    __m512i sum_i16x32 = _mm512_setzero_si512();
    for (int d = 0; d < digits; d++)
      sum_i16x32 = _mm512_add_epi16(
          sum_i16x32, _mm512_mullo_epi16(_mm512_set1_epi16(x[d]), load(patterns + d * kPatterns)));
    _mm512_storeu_si512(t, sum_i16x32);
  }
}

template <class Style, int R>
inline void add_words_i8(const uint16_t* words, const char* t, __m512i* sum_i16x32) {
  using Table = typename Style::TableI8;
  const Table first(t), second(t + kTableBytesI8), third(t + 2 * kTableBytesI8);
  for (int r = 0; r < R; r++) {
    prefetch(words + 32 * r);
    const __m512i w = load_once(words + 32 * r);
    const __m512i v0 = first.entries(w);
    const __m512i v1 = second.entries(Style::template shifted<5>(w));
    const __m512i v2 = third.entries(Style::template shifted<10>(w));
    sum_i16x32[r] = _mm512_add_epi16(sum_i16x32[r], _mm512_add_epi16(_mm512_add_epi16(v0, v1), v2));
  }
}

// A 32-bit lane holds the words of rows 2i (low half) and 2i + 1 (high half): the even rows look
// up with the word unshifted, the odd rows with the word shifted down.
template <class Style, int R>
inline void add_words_f32(const uint16_t* words, const float* t, __m512* even_f32x16,
                          __m512* odd_f32x16) {
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
      if (i == 1) even = Style::template shifted<5>(even), odd = Style::template shifted<5>(odd);
      if (i == 2) even = Style::template shifted<10>(even), odd = Style::template shifted<10>(odd);
      even_f32x16[r] = _mm512_add_ps(even_f32x16[r], _mm512_permutex2var_ps(low, even, high));
      odd_f32x16[r] = _mm512_add_ps(odd_f32x16[r], _mm512_permutex2var_ps(low, odd, high));
    }
  }
}

}  // namespace
}  // namespace rsr
