// Panels, packing w16: the digits of 32 rows and a few inputs, decoded from the ranks in registers,
// for kernels that multiply bytes (vpdpbusd, TDPBSSD). A panel stays in cache; a dense matrix never
// exists.
//
// * A bundle is 4 word columns, 12 k inputs. Two interleavings of 16-bit lanes bring the 4 words of
//   a row together, so that 3 vectors of bytes hold the ranks of 4 blocks of each row.
// * One byte lookup (vpermb) per digit of a block turns 4 ranks into a step: 16 rows x 4 inputs in
//   64 bytes, the operand of vpdpbusd and a row of a TDPBSSD tile. vpermb uses six bits of a rank
//   byte; the tables repeat after 32 entries, so the sixth bit may have any value.
// * Multiplications shift, for the reason given in vector/w16_avx512.h.
// * Rows and inputs stay in the order that this produces: packed inputs have the same order, and
//   store_rows restores that of the rows.
//
// Per bundle and panel, k = 3 (1152 digits): 18 vpermb, 6 vpmulhuw, 4 vpsllw, 6 vpternlogd, 4
// vpunpck, 18 stores, 4 loads. 22 run on port 5 alone: 22 cycles on Sapphire Rapids.
//
// Internal linkage: each file that includes this compiles its own (table.h). Needs AVX-512 F, BW
// and VBMI.
#pragma once
#include <cstddef>
#include <cstdint>

#include "avx512.h"
#include "table.h"

namespace rsr {
namespace {

constexpr size_t kPanelRows = 32;
static_assert(kPanelRows == kRowUnit && W16::kStripRows % kPanelRows == 0);
constexpr size_t kBundleColumns = 4;  // word columns of a bundle
constexpr size_t kStepInputs = 4, kStepBytes = kPanelRows * kStepInputs;  // two vectors of 16 rows

constexpr size_t bundle_steps(int k) { return W16::kBlocks * k; }
constexpr size_t bundle_inputs(int k) { return kStepInputs * bundle_steps(k); }

// Inputs are processed in blocks of this many bundles: 144 to 240 steps. A panel (18 to 30 KiB)
// then stays in L1, or the two of AMX in L1 and L2, while it meets all vectors, and the sums, which
// are in memory between blocks, cost little.
constexpr size_t block_bundles(int k) { return k == 1 ? 64 : k == 2 ? 32 : 16; }
constexpr size_t block_steps(int k) { return block_bundles(k) * bundle_steps(k); }
constexpr size_t block_inputs(int k) { return block_bundles(k) * bundle_inputs(k); }

// A block of inputs in panel order, with room for what Arrangement writes beyond it.
struct BlockInputs {
  alignas(64) char bytes[block_inputs(kMaxK) + 64];
};
static_assert(block_inputs(1) <= block_inputs(kMaxK) && block_inputs(2) <= block_inputs(kMaxK));

constexpr size_t bundles_of(size_t columns) { return divide_up(columns, kBundleColumns); }
constexpr size_t blocks_of(size_t columns, int k) {
  return divide_up(bundles_of(columns), block_bundles(k));
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

// The ranks of the words from which `a` (low bytes) and `b` (high bytes) are interleaved; rank j
// begins at bit 5 j of a word.
inline __m512i ranks_of(int j, __m512i a, __m512i b) {
  if (j == 0) {
    b = _mm512_mullo_epi16(b, _mm512_set1_epi16(1 << 8));
  } else if (j == 1) {
    a = _mm512_mulhi_epu16(a, _mm512_set1_epi16(1 << 11));
    b = _mm512_mullo_epi16(b, _mm512_set1_epi16(1 << 3));
  } else {
    a = _mm512_mulhi_epu16(a, _mm512_set1_epi16(1 << 6));
    b = _mm512_mulhi_epu16(b, _mm512_set1_epi16(1 << 14));
  }
  return _mm512_ternarylogic_epi32(_mm512_set1_epi16(0x00ff), a, b, 0xca);
}

// The bundle of 12 blocks whose first has rank kFirst of the first word. columns: that exist.
// Blocks j, 3 + j, 6 + j, 9 + j share the steps j k to j k + k - 1.
// K: k, or 0 for any.
template <int K, int kFirst = 0>
inline void make_bundle(const uint16_t* words, size_t height, size_t columns, int k,
                        const DigitBytes& digits, char* panel) {
  const int width = K ? K : k;
  constexpr size_t kWords = kBundleColumns + (kFirst > 0);
  __m512i w[kWords];
#pragma GCC unroll 5
  for (size_t c = 0; c < kWords; c++)
    w[c] = c < columns ? _mm512_loadu_si512(words + c * height) : _mm512_setzero_si512();
#pragma GCC unroll 2
  for (int half = 0; half < 2; half++) {
    const auto interleave = [&](__m512i v0, __m512i v1) {
      return half ? _mm512_unpackhi_epi16(v0, v1) : _mm512_unpacklo_epi16(v0, v1);
    };
#pragma GCC unroll 3
    for (int j = 0; j < 3; j++) {
      const int rank = (kFirst + j) % 3, c = (kFirst + j) / 3;
      const __m512i ranks =
          ranks_of(rank, interleave(w[c], w[c + 1]), interleave(w[c + 2], w[c + 3]));
#pragma GCC unroll 5
      for (int d = 0; d < width; d++)
        _mm512_storeu_si512(panel + (j * width + d) * kStepBytes + half * 64,
                            _mm512_permutexvar_epi8(ranks, digits.of[d]));
    }
  }
}

// Writes the sums of a panel's 32 rows, in the order of make_bundle, to y in row order.
inline void store_rows(__m512i low, __m512i high, void* y) {
  const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  _mm512_storeu_si512(y, _mm512_permutex2var_epi64(low, first, high));
  _mm512_storeu_si512(static_cast<char*>(y) + 64, _mm512_permutex2var_epi64(low, second, high));
}

// Arranges inputs in the order of a panel's steps.
class Arrangement {
 public:
  explicit Arrangement(int k) : width_(bundle_inputs(k)) {
    constexpr uint8_t kColumn[kBundleColumns] = {0, 2, 1, 3};  // the order within a lane
    alignas(64) uint8_t from[64] = {};
    static_assert(bundle_inputs(kMaxK) <= sizeof from);
    for (size_t i = 0; i < width_; i++)
      from[i] = static_cast<uint8_t>(kColumn[i % 4] * bundle_steps(k) + i / 4);
    from_ = _mm512_load_si512(from);
  }

  // x: the inputs of several bundles; zeros complete the last. Writes up to 63 bytes beyond the
  // last bundle; returns the end of that bundle.
  char* operator()(const int8_t* x, size_t inputs, char* to) const {
    for (size_t i = 0; i < inputs; i += width_, to += width_) {
      const size_t here = min(inputs - i, width_);
      const __m512i bundle = _mm512_maskz_loadu_epi8(~uint64_t(0) >> (64 - here), x + i);
      _mm512_storeu_si512(to, _mm512_permutexvar_epi8(from_, bundle));
    }
    return to;
  }

 private:
  size_t width_;
  __m512i from_;
};

}  // namespace
}  // namespace rsr
