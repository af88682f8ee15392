// Panels of groups of columns (panels.h): a group begins at any rank of a word, and its inputs fill
// as few steps as possible.
//
// * Block 3 i + j of a group is in word i or i + 1 of the group, for each j at one rank. So bundles
//   of 12 blocks have the same order of inputs wherever the group begins (make_bundle's kFirst).
// * The tail of a group has up to 12 blocks, the last of which may have inputs that are only
//   padding. Four whole blocks fill k steps. The inputs that are left over follow as they come,
//   each of the four in a step with the rank and the digit of its own.
//
// Internal linkage: each file that includes this compiles its own (table.h). Needs AVX-512 F, BW
// and VBMI.
#pragma once
#include <cstring>

#include "batch/panels.h"

namespace rsr {
namespace {

constexpr size_t kBundleBlocks = kBundleColumns * W16::kBlocks;
constexpr size_t kPutSteps = 16;
static_assert(block_steps(1) % kPutSteps == 0 && block_steps(2) % kPutSteps == 0 &&
              block_steps(3) % kPutSteps == 0);

// How the inputs of a group become steps.
class GroupSteps {
 public:
  // inputs: those of the blocks, less the zeros that complete the last.
  GroupSteps(size_t blocks, size_t inputs, int k) : k_(k), arrange_(k) {
    if (blocks == 0) return;
    whole_ = (blocks - 1) / kBundleBlocks;
    tail_inputs_ = inputs - whole_ * bundle_inputs(k);
    fours_ = tail_inputs_ / k / kStepInputs;
    alignas(64) uint8_t from[64] = {};
    size_t byte = 0;
    for (size_t four = 0; four < fours_; four++)
      for (size_t d = 0; d < static_cast<size_t>(k); d++)
        for (size_t p = 0; p < kStepInputs; p++)
          from[byte++] = static_cast<uint8_t>((four * kStepInputs + p) * k + d);
    for (size_t i = fours_ * kStepInputs * k; i < tail_inputs_; i++, byte++) {
      LeftStep& step = left_[(byte - fours_ * kStepInputs * k) / kStepInputs];
      const size_t p = byte % kStepInputs;
      if (p == 0) step = {}, left_steps_++;
      from[byte] = static_cast<uint8_t>(i);
      step.blocks[p] = i / k;
      step.bytes[i % k] |= 0x1111111111111111 << p;
    }
    filled_ = ~uint64_t(0) >> (64 - tail_inputs_);
    from_ = _mm512_load_si512(from);
  }

  size_t steps() const { return whole_ * bundle_steps(k_) + tail_steps(); }

  // Calls put(step, its inputs and those of the next, kPutSteps in all) until the inputs x of the
  // group are in the order of its steps; zeros complete the last.
  template <class Put>
  void arrange(const int8_t* x, const Put& put) const {
    alignas(64) char bytes[block_inputs(kMaxK) + 128];
    constexpr size_t kPutBytes = kPutSteps * kStepInputs;
    for (size_t bundle = 0, step = 0; bundle <= whole_;) {
      const size_t bundles = min(whole_ - bundle, block_bundles(k_));
      char* end = arrange_(x, bundles * bundle_inputs(k_), bytes);
      x += bundles * bundle_inputs(k_);
      bundle += bundles;
      if (bundle == whole_) {
        const __m512i tail = _mm512_maskz_loadu_epi8(~uint64_t(0) >> (64 - tail_inputs_), x);
        _mm512_storeu_si512(end, _mm512_maskz_permutexvar_epi8(filled_, from_, tail));
        end += tail_steps() * kStepInputs;
        _mm512_storeu_si512(end, _mm512_setzero_si512());
        bundle++;
      }
      for (const char* b = bytes; b < end; b += kPutBytes, step += kPutSteps) put(step, b);
    }
  }

  // Makes the panel of the group. words: the one whose rank kFirst is the group's first; columns:
  // that exist from it on.
  template <int K, int kFirst>
  void make(const uint16_t* words, size_t height, size_t columns, const DigitBytes& digits,
            char* panel) const {
    for (size_t i = 0; i < whole_; i++) {
      make_bundle<K, kFirst>(words, height, columns, k_, digits, panel);
      words += kBundleColumns * height;
      columns -= kBundleColumns;
      panel += bundle_steps(k_) * kStepBytes;
    }
    make_tail<K, kFirst>(words, height, digits, panel);
  }

 private:
  // Inputs left over: the block of each, and the bytes that have digit d.
  struct LeftStep {
    size_t blocks[kStepInputs];  // of the tail
    uint64_t bytes[kMaxK];
  };

  size_t tail_steps() const { return fours_ * k_ + left_steps_; }

  template <int K, int kFirst>
  void make_tail(const uint16_t* words, size_t height, const DigitBytes& digits,
                 char* panel) const {
    const int width = K ? K : k_;
    const auto ranks_of_block = [&](size_t block) {
      block += kFirst;
      return _mm512_srlv_epi16(
          load(words + block / W16::kBlocks * height),
          _mm512_set1_epi16(static_cast<short>(block % W16::kBlocks * W16::kRankBits)));
    };
    // A row's ranks in bytes, those of 16 rows in each half.
    const auto interleave = [](__m512i v0, __m512i v1, __m512i v2, __m512i v3, __m512i* halves) {
      v2 = _mm512_slli_epi16(v2, 8), v3 = _mm512_slli_epi16(v3, 8);
      const __m512i low = _mm512_set1_epi16(0x00ff);
      v0 = _mm512_ternarylogic_epi32(low, v0, v2, 0xca);
      v1 = _mm512_ternarylogic_epi32(low, v1, v3, 0xca);
      halves[0] = _mm512_unpacklo_epi16(v0, v1);
      halves[1] = _mm512_unpackhi_epi16(v0, v1);
    };
    __m512i halves[2];
    for (size_t four = 0; four < fours_; four++) {
      const size_t b = four * kStepInputs;
      interleave(ranks_of_block(b), ranks_of_block(b + 2), ranks_of_block(b + 1),
                 ranks_of_block(b + 3), halves);
#pragma GCC unroll 5
      for (int d = 0; d < width; d++, panel += kStepBytes)
        for (size_t h = 0; h < 2; h++)
          _mm512_storeu_si512(panel + 64 * h, _mm512_permutexvar_epi8(halves[h], digits.of[d]));
    }
    for (size_t s = 0; s < left_steps_; s++, panel += kStepBytes) {
      const LeftStep& step = left_[s];
      interleave(ranks_of_block(step.blocks[0]), ranks_of_block(step.blocks[2]),
                 ranks_of_block(step.blocks[1]), ranks_of_block(step.blocks[3]), halves);
      for (size_t h = 0; h < 2; h++) {
        __m512i bytes = _mm512_setzero_si512();
#pragma GCC unroll 5
        for (int d = 0; d < width; d++)
          bytes = _mm512_mask_permutexvar_epi8(bytes, step.bytes[d], halves[h], digits.of[d]);
        _mm512_storeu_si512(panel + 64 * h, bytes);
      }
    }
  }

  // At most 3 k + k - 1 inputs of whole blocks and a last one are left over.
  static constexpr size_t kMaxLeftSteps = kMaxK;

  int k_;
  Arrangement arrange_;
  size_t whole_ = 0;  // bundles that are full
  size_t tail_inputs_ = 0, fours_ = 0, left_steps_ = 0;
  LeftStep left_[kMaxLeftSteps];
  __m512i from_;
  uint64_t filled_ = 0;
};

// The steps of all groups: the last may be shorter.
class GroupedSteps {
 public:
  GroupedSteps(const Grouping& grouping, int k)
      : grouping_(grouping),
        whole_(group_end(grouping, 0), inputs_of_group(grouping, 0, k), k),
        last_(grouping.blocks % grouping.blocks_per_group,
              grouping.blocks % grouping.blocks_per_group * k, k) {}

  const GroupSteps& of(size_t group) const {
    return (group + 1) * grouping_.blocks_per_group <= grouping_.blocks ? whole_ : last_;
  }

  // Makes the panel of a group. words: of the panel's rows, from column 0 on.
  template <int K>
  void make(size_t group, const uint16_t* words, size_t height, size_t columns,
            const DigitBytes& digits, char* panel) const {
    const size_t block = group * grouping_.blocks_per_group, c = block / W16::kBlocks;
    words += c * height;
    columns -= c;
    const GroupSteps& steps = of(group);
    switch (block % W16::kBlocks) {
      case 0:
        return steps.make<K, 0>(words, height, columns, digits, panel);
      case 1:
        return steps.make<K, 1>(words, height, columns, digits, panel);
      default:
        return steps.make<K, 2>(words, height, columns, digits, panel);
    }
  }

 private:
  Grouping grouping_;
  GroupSteps whole_, last_;
};

// Widens the scales of a panel's rows in a group, and puts them in the order of make_bundle.
inline void load_scales(const GroupScales& scales, size_t group, size_t row, float* to) {
  const char* from = scales_at(scales, group, row);
  __m512i a, b;
  if (scales.is_half) {
    const __m512i halves = load(from);
    a = _mm512_castps_si512(_mm512_cvtph_ps(_mm512_castsi512_si256(halves)));
    b = _mm512_castps_si512(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1)));
  } else {
    a = load(from);
    b = load(from + 64);
  }
  const __m512i low = _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13);
  const __m512i high = _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15);
  _mm512_storeu_si512(to, _mm512_permutex2var_epi64(a, low, b));
  _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi64(a, high, b));
}

// The 32 rows of a panel, `row` counted from the first strip.
struct PanelRows {
  const uint16_t* words;  // in column 0
  size_t height;          // of their strip

  PanelRows(const RankedRows& rows, size_t row) {
    const size_t strip = row / W16::kStripRows * W16::kStripRows;
    height = strip_height<W16>(rows.end - strip);
    words = reinterpret_cast<const uint16_t*>(rows.index) + strip * rows.columns + row - strip;
  }
};

}  // namespace
}  // namespace rsr
