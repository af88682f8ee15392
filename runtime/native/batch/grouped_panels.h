// Panels of groups of columns (panels.h): a group begins at any rank of a word, and its inputs fill
// as few steps as possible.
//
// * Block 3 i + j of a group is in word i or i + 1 of the group, for each j at one rank. So bundles
//   of 12 blocks have the same order of inputs wherever the group begins (make_bundle's kFirst).
// * The last bundle of a group is not full, and its last block may have inputs that are only
//   padding: 128 inputs would take 36 steps where 32 hold them. Where it saves a tile, bytes of
//   some steps move to the holes of others, by one masked vpshufb for each pair of steps.
//
// Internal linkage: each file that includes this compiles its own (table.h). Needs AVX-512 F, BW
// and VBMI.
#pragma once
#include <cstring>

#include "batch/panels.h"

namespace rsr {
namespace {

constexpr size_t kBundleBlocks = kBundleColumns * W16::kBlocks;
constexpr size_t kMaxBundleSteps = W16::kBlocks * kMaxK;
constexpr size_t kPutSteps = 16;
static_assert(block_steps(1) % kPutSteps == 0 && block_steps(2) % kPutSteps == 0 &&
              block_steps(3) % kPutSteps == 0);

// How the inputs of a group become steps.
class GroupSteps {
 public:
  // inputs: those of the blocks, less the zeros that complete the last. Steps are compacted if that
  // saves a multiple of `unit`.
  GroupSteps(size_t blocks, size_t inputs, int k, size_t unit) : k_(k), arrange_(k) {
    if (blocks == 0) return;
    whole_ = (blocks - 1) / kBundleBlocks;
    const size_t tail = blocks - whole_ * kBundleBlocks;  // blocks of the last bundle
    tail_inputs_ = inputs - whole_ * bundle_inputs(k);
    used_ = min(tail, W16::kBlocks) * k;
    const size_t least = divide_up(tail_inputs_, kStepInputs), before = whole_ * bundle_steps(k);
    const bool is_compact = divide_up(before + least, unit) < divide_up(before + used_, unit);

    constexpr size_t kWordAt[kStepInputs] = {0, 2, 1, 3};  // as in Arrangement
    constexpr uint8_t kHole = 64;
    uint8_t input_at[kMaxBundleSteps][kStepInputs];  // of the bundle, by step and byte
    size_t filled[kMaxBundleSteps] = {};
    for (size_t s = 0; s < used_; s++)
      for (size_t p = 0; p < kStepInputs; p++) {
        const size_t input = (kWordAt[p] * W16::kBlocks + s / k) * k + s % k;
        const bool is_hole = input >= tail_inputs_;
        input_at[s][p] = is_hole ? kHole : static_cast<uint8_t>(input);
        filled[s] += !is_hole;
      }
    if (is_compact) {
      // Steps with the most inputs stay, the others fill them up.
      bool stays[kMaxBundleSteps] = {};
      for (size_t most = kStepInputs; most > 0; most--)
        for (size_t s = 0; s < used_; s++)
          if (filled[s] == most && tail_steps_ < least) {
            stays[s] = true;
            place_[tail_steps_++] = s;
          }
      for (size_t t = 0; t < tail_steps_; t++)
        for (size_t s = 0; s < used_; s++)
          if (!stays[s]) add_move(input_at[place_[t]], input_at[s], t, s, kHole);
    } else {
      tail_steps_ = used_;
      for (size_t s = 0; s < used_; s++) place_[s] = s;
    }
    alignas(64) uint8_t from[64] = {};
    for (size_t t = 0; t < tail_steps_; t++)
      for (size_t p = 0; p < kStepInputs; p++)
        if (input_at[place_[t]][p] != kHole) {
          from[t * kStepInputs + p] = input_at[place_[t]][p];
          filled_ |= uint64_t(1) << (t * kStepInputs + p);
        }
    from_ = _mm512_load_si512(from);
  }

  size_t steps() const { return whole_ * bundle_steps(k_) + tail_steps_; }
  size_t bundles() const { return whole_ + 1; }

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
        end += tail_steps_ * kStepInputs;
        _mm512_storeu_si512(end, _mm512_setzero_si512());
        bundle++;
      }
      for (const char* b = bytes; b < end; b += kPutBytes, step += kPutSteps) put(step, b);
    }
  }

  // Makes bundle i of a panel of the group. words: the one in which the group begins; columns: that
  // exist from it on. Writes up to kMaxBundleSteps - 1 steps beyond the group's.
  template <int K, int kFirst>
  void make(size_t i, const uint16_t* words, size_t height, size_t columns,
            const DigitBytes& digits, char* panel) const {
    words += i * kBundleColumns * height;
    columns -= min(columns, i * kBundleColumns);
    panel += i * bundle_steps(k_) * kStepBytes;
    if (i < whole_ || moves_ == 0)
      return make_bundle<K, kFirst>(words, height, columns, k_, digits, panel);
    alignas(64) char all[kMaxBundleSteps * kStepBytes];
    make_bundle<K, kFirst>(words, height, columns, k_, digits, all);
    for (size_t t = 0, m = 0; t < tail_steps_; t++) {
      const char* at = all + place_[t] * kStepBytes;
      __m512i low = load(at), high = load(at + 64);
      for (; m < moves_ && move_[m].to == t; m++) {
        const char* from = all + move_[m].from * kStepBytes;
        const __m512i bytes = _mm512_set1_epi32(move_[m].bytes);
        const __m512i lanes = _mm512_broadcast_i32x4(
            _mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
        const __m512i order = _mm512_add_epi8(bytes, lanes);
        low = _mm512_mask_shuffle_epi8(low, move_[m].mask, load(from), order);
        high = _mm512_mask_shuffle_epi8(high, move_[m].mask, load(from + 64), order);
      }
      _mm512_storeu_si512(panel + t * kStepBytes, low);
      _mm512_storeu_si512(panel + t * kStepBytes + 64, high);
    }
  }

 private:
  // Bytes of step `from` of the bundle that fill holes of step `to` of the tail.
  struct Move {
    size_t to, from;
    uint64_t mask;   // of bytes of `to`
    uint32_t bytes;  // of a row of `from`, for each byte of `to`
  };

  void add_move(uint8_t* to, uint8_t* from, size_t t, size_t s, uint8_t hole) {
    Move move = {t, s, 0, 0};
    size_t q = 0;
    for (size_t p = 0; p < kStepInputs; p++) {
      if (to[p] != hole) continue;
      while (q < kStepInputs && from[q] == hole) q++;
      if (q == kStepInputs) break;
      to[p] = from[q];
      from[q] = hole;
      move.mask |= 0x1111111111111111 << p;
      move.bytes |= static_cast<uint32_t>(q) << (8 * p);
    }
    if (move.mask) move_[moves_++] = move;
  }

  int k_;
  Arrangement arrange_;
  size_t whole_ = 0;  // bundles that are full
  size_t tail_inputs_ = 0, used_ = 0, tail_steps_ = 0;
  size_t place_[kMaxBundleSteps];  // in the bundle, of each step of the tail
  Move move_[kMaxBundleSteps];     // by `to`; each completes a step or empties one
  size_t moves_ = 0;
  __m512i from_;
  uint64_t filled_ = 0;
};

// The steps of all groups: the last may be shorter.
class GroupedSteps {
 public:
  GroupedSteps(const Grouping& grouping, int k, size_t unit)
      : grouping_(grouping),
        whole_(group_end(grouping, 0), inputs_of_group(grouping, 0, k), k, unit),
        last_(grouping.blocks % grouping.blocks_per_group,
              grouping.blocks % grouping.blocks_per_group * k, k, unit) {}

  const GroupSteps& of(size_t group) const {
    return (group + 1) * grouping_.blocks_per_group <= grouping_.blocks ? whole_ : last_;
  }

  // Makes bundle i of the panel of a group. words: of the panel's rows, from column 0 on.
  template <int K>
  void make(size_t group, size_t i, const uint16_t* words, size_t height, size_t columns,
            const DigitBytes& digits, char* panel) const {
    const size_t block = group * grouping_.blocks_per_group, c = block / W16::kBlocks;
    words += c * height;
    columns -= c;
    const GroupSteps& steps = of(group);
    switch (block % W16::kBlocks) {
      case 0:
        return steps.make<K, 0>(i, words, height, columns, digits, panel);
      case 1:
        return steps.make<K, 1>(i, words, height, columns, digits, panel);
      default:
        return steps.make<K, 2>(i, words, height, columns, digits, panel);
    }
  }

 private:
  Grouping grouping_;
  GroupSteps whole_, last_;
};

// Widens the scales of a panel's rows in a group, and puts them in the order of make_bundle.
inline void load_scales(const GroupScales& scales, size_t group, size_t row, float* to) {
  const size_t entry = entry_bytes(scales);
  const char* from = static_cast<const char*>(scales.data) + (group * scales.stride + row) * entry;
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
