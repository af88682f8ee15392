// Panels: the ranks of 32 rows turned back into digits, a few inputs at a time, in registers. For
// kernels that multiply bytes by the million; a panel stays in cache, no dense matrix ever exists.
//
// Everything here has internal linkage: each kernel file that includes it compiles its own copy for
// its own instruction set, and none can reach another file. Wants AVX-512 F, BW and VBMI.
//
// * A group is 4 word columns, 12 k inputs. Two interleavings of 16-bit lanes bring the 4 words of
//   one row together in a 32-bit lane, so 3 times 4 of its bytes are ranks of 4 inputs' blocks.
// * A byte lookup (vpermb) for each digit of a block turns 4 ranks into a step: 16 rows x 4 inputs
//   in 64 bytes, which is what vpdpbusd and a row of a TDPBSSD tile want. It uses six bits of a
//   rank byte; the tables repeat after 32 entries, so the sixth may be anything.
// * Shifts are multiplications: see w16_avx512.cpp.
// * The order of rows and inputs is what falls out of that: packed activations have the same order
//   of inputs, and store_rows puts the rows right.
#pragma once
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "table.h"

namespace rsr {
namespace {

constexpr size_t kStripRows = 128, kPanelRows = 32;
constexpr size_t kGroupColumns = 4;                  // word columns of a group
constexpr size_t kStepInputs = 4, kStepBytes = 128;  // of a panel: two vectors of 16 rows

constexpr size_t group_steps(int k) { return 3 * k; }
constexpr size_t group_inputs(int k) { return kStepInputs * group_steps(k); }

// Groups of a block of inputs: 144 to 240 steps, so that a panel (18 to 30 KiB) stays in L1, and
// the two that AMX keeps in L1 or L2, while many vectors pass, and the sums, in memory between
// blocks, cost little.
constexpr size_t block_groups(int k) { return k == 1 ? 64 : k == 2 ? 32 : 16; }
constexpr size_t block_steps(int k) { return block_groups(k) * group_steps(k); }
constexpr size_t block_inputs(int k) { return block_groups(k) * group_inputs(k); }

constexpr size_t divide_up(size_t a, size_t b) { return (a + b - 1) / b; }
constexpr size_t groups_of(size_t columns) { return divide_up(columns, kGroupColumns); }
constexpr size_t blocks_of(size_t columns, int k) {
  return divide_up(groups_of(columns), block_groups(k));
}

// Value of digit d of pattern p, minus `offset`: bytes p and p + 32.
struct DigitBytes {
  __m512i of[5];
};

inline DigitBytes digit_bytes(const int16_t* patterns, int k, int offset) {
  DigitBytes digits{};
  for (int d = 0; d < k; d++) {
    const __m512i values_i16x32 = _mm512_loadu_si512(patterns + d * kPatterns);
    digits.of[d] = _mm512_broadcast_i64x4(_mm512_cvtepi16_epi8(
        _mm512_sub_epi16(values_i16x32, _mm512_set1_epi16(static_cast<short>(offset)))));
  }
  return digits;
}

// K: k where it is known, 0 for any.
template <int K>
inline void make_group(const uint16_t* words, size_t height, size_t columns, int k,
                       const DigitBytes& digits, char* panel) {
  const int width = K ? K : k;
  const __m512i low_bytes = _mm512_set1_epi16(0x00ff);
  __m512i w[kGroupColumns];
  for (size_t c = 0; c < kGroupColumns; c++)
    w[c] = c < columns ? _mm512_loadu_si512(words + c * height) : _mm512_setzero_si512();
  for (int half = 0; half < 2; half++) {
    const __m512i a = half ? _mm512_unpackhi_epi16(w[0], w[1]) : _mm512_unpacklo_epi16(w[0], w[1]);
    const __m512i b = half ? _mm512_unpackhi_epi16(w[2], w[3]) : _mm512_unpacklo_epi16(w[2], w[3]);
    // Low bytes from a, high bytes from b: rank j begins at bit 5 j of a word.
    const auto select = [&](__m512i from_a, __m512i from_b) {
      return _mm512_ternarylogic_epi32(low_bytes, from_a, from_b, 0xca);
    };
    const __m512i ranks[3] = {select(a, _mm512_mullo_epi16(b, _mm512_set1_epi16(1 << 8))),
                              select(_mm512_mulhi_epu16(a, _mm512_set1_epi16(1 << 11)),
                                     _mm512_mullo_epi16(b, _mm512_set1_epi16(1 << 3))),
                              select(_mm512_mulhi_epu16(a, _mm512_set1_epi16(1 << 6)),
                                     _mm512_mulhi_epu16(b, _mm512_set1_epi16(1 << 14)))};
    for (int j = 0; j < 3; j++)
      for (int d = 0; d < width; d++)
        _mm512_storeu_si512(panel + (j * width + d) * kStepBytes + half * 64,
                            _mm512_permutexvar_epi8(ranks[j], digits.of[d]));
  }
}

// The sums of a panel's 32 rows, in the order that make_group gives them, to rows y[0..32).
inline void store_rows(const int32_t* low_sums, const int32_t* high_sums, int32_t* y) {
  const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  const __m512i low = _mm512_loadu_si512(low_sums), high = _mm512_loadu_si512(high_sums);
  _mm512_storeu_si512(y, _mm512_permutex2var_epi64(low, first, high));
  _mm512_storeu_si512(y + 16, _mm512_permutex2var_epi64(low, second, high));
}

// Brings inputs into the order of a panel's steps.
class Arrangement {
 public:
  explicit Arrangement(int k) : width_(group_inputs(k)) {
    constexpr uint8_t kColumn[kGroupColumns] = {0, 2, 1, 3};  // in a lane, by interleaving
    alignas(64) uint8_t from[64] = {};
    for (size_t i = 0; i < width_; i++)
      from[i] = static_cast<uint8_t>(kColumn[i % 4] * group_steps(k) + i / 4);
    from_ = _mm512_load_si512(from);
  }

  // x: the `inputs` inputs of whole groups, the last perhaps not all there: zeros take their place.
  // Writes up to 63 bytes beyond the last group, and returns the end of that.
  char* operator()(const int8_t* x, size_t inputs, char* to) const {
    for (size_t i = 0; i < inputs; i += width_, to += width_) {
      const size_t here = inputs - i < width_ ? inputs - i : width_;
      const __m512i group = _mm512_maskz_loadu_epi8(~uint64_t(0) >> (64 - here), x + i);
      _mm512_storeu_si512(to, _mm512_permutexvar_epi8(from_, group));
    }
    return to;
  }

 private:
  size_t width_;
  __m512i from_;
};

}  // namespace
}  // namespace rsr
