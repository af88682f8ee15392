// Panels, packing w16: the digits of 32 rows and a few inputs, decoded from the ranks in registers,
// for kernels that multiply bytes (vpdpbusd, TDPBSSD). A panel stays in cache; a dense matrix never
// exists.
//
// * A group is 4 word columns, 12 k inputs. Two interleavings of 16-bit lanes bring the 4 words of
//   a row together, so that 3 vectors of bytes hold the ranks of 4 blocks of each row.
// * One byte lookup (vpermb) per digit of a block turns 4 ranks into a step: 16 rows x 4 inputs in
//   64 bytes, the operand of vpdpbusd and a row of a TDPBSSD tile. vpermb uses six bits of a rank
//   byte; the tables repeat after 32 entries, so the sixth bit may have any value.
// * Multiplications shift, for the reason given in vector/w16_avx512.h.
// * Rows and inputs stay in the order that this produces: packed inputs have the same order, and
//   store_rows restores that of the rows.
//
// Per group and panel, k = 3 (1152 digits): 18 vpermb, 6 vpmulhuw, 4 vpsllw, 6 vpternlogd, 4
// vpunpck, 18 stores, 4 loads. 22 run on port 5 alone: 22 cycles on Sapphire Rapids.
//
// Internal linkage: each file that includes this compiles its own (table.h). Needs AVX-512 F, BW
// and VBMI.
#pragma once
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "table.h"

namespace rsr {
namespace {

constexpr size_t kPanelRows = 32;
static_assert(kPanelRows == kRowUnit && W16::kStripRows % kPanelRows == 0);
constexpr size_t kGroupColumns = 4;                                       // word columns of a group
constexpr size_t kStepInputs = 4, kStepBytes = kPanelRows * kStepInputs;  // two vectors of 16 rows

constexpr size_t group_steps(int k) { return W16::kBlocks * k; }
constexpr size_t group_inputs(int k) { return kStepInputs * group_steps(k); }

// Inputs are processed in blocks of this many groups: 144 to 240 steps. A panel (18 to 30 KiB) then
// stays in L1, or the two of AMX in L1 and L2, while it meets all vectors, and the sums, which are
// in memory between blocks, cost little.
constexpr size_t block_groups(int k) { return k == 1 ? 64 : k == 2 ? 32 : 16; }
constexpr size_t block_steps(int k) { return block_groups(k) * group_steps(k); }
constexpr size_t block_inputs(int k) { return block_groups(k) * group_inputs(k); }

// A block of inputs in panel order, with room for what Arrangement writes beyond it.
struct BlockInputs {
  alignas(64) char bytes[block_inputs(kMaxK) + 64];
};
static_assert(block_inputs(1) <= block_inputs(kMaxK) && block_inputs(2) <= block_inputs(kMaxK));

constexpr size_t groups_of(size_t columns) { return divide_up(columns, kGroupColumns); }
constexpr size_t blocks_of(size_t columns, int k) {
  return divide_up(groups_of(columns), block_groups(k));
}

// Bytes p and p + 32 of of[d]: the value of digit d in pattern p, minus `offset`.
struct DigitBytes {
  __m512i of[kMaxK];
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

// K: k, or 0 for any.
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
    // Low bytes from a, high bytes from b; rank j begins at bit 5j of a word.
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

// Writes the sums of a panel's 32 rows, in the order of make_group, to y in row order.
inline void store_rows(const int32_t* low_sums, const int32_t* high_sums, int32_t* y) {
  const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  const __m512i low = _mm512_loadu_si512(low_sums), high = _mm512_loadu_si512(high_sums);
  _mm512_storeu_si512(y, _mm512_permutex2var_epi64(low, first, high));
  _mm512_storeu_si512(y + 16, _mm512_permutex2var_epi64(low, second, high));
}

// Arranges inputs in the order of a panel's steps.
class Arrangement {
 public:
  explicit Arrangement(int k) : width_(group_inputs(k)) {
    constexpr uint8_t kColumn[kGroupColumns] = {0, 2, 1, 3};  // the order within a lane
    alignas(64) uint8_t from[64] = {};
    static_assert(group_inputs(kMaxK) <= sizeof from);
    for (size_t i = 0; i < width_; i++)
      from[i] = static_cast<uint8_t>(kColumn[i % 4] * group_steps(k) + i / 4);
    from_ = _mm512_load_si512(from);
  }

  // x: the inputs of several groups; zeros complete the last. Writes up to 63 bytes beyond the last
  // group; returns the end of that group.
  char* operator()(const int8_t* x, size_t inputs, char* to) const {
    for (size_t i = 0; i < inputs; i += width_, to += width_) {
      const size_t here = min(inputs - i, width_);
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
