// Many float32 vectors at once, packing w16, AMX: TDPBF16PS multiplies 16 vectors by 16 rows, 32
// inputs deep, in 16 cycles. With or without scales of groups of columns.
//
// * An input is the sum of two bfloat16 numbers, high and low. Digits are exact in bfloat16, so a
//   product of tiles is exact but for its float32 additions.
// * The digits come from panels of 32 rows, which meet all vectors of a pass, two tiles at a time;
//   if there is only one tile of vectors, it meets two panels. A step of a panel is two inputs.
//   Both parts of an input meet the same rows: six tile loads feed eight tile products.
// * A panel holds a section of the inputs: a group, or a part of one. It is made in one burst. The
//   processor overlaps it with the tile products before it, as these run on a unit of their own.
// * Inputs that stay in L2 are read anew for each panel's rows, whose sums are then in L1; without
//   groups the sums of up to 32 vectors stay in tiles. Longer inputs meet kRoundRows rows, section
//   by section, with their sums in L2: a pass may hold many vectors of any length.
// * The last block of a group may have zeros in place of inputs. They are left out, so that 128
//   inputs are 64 steps.
//
// Per two words and 32 rows, k = 3 (576 digits): 2 vpunpck, 18 vpermw, 4 vpmulhuw, 18 stores, 2
// loads. 20 run on port 5 alone.
//
// Bound: a vector is taken if it has at least kMinInputs inputs, all 0 or from 2^-102 to 2^126 / n
// in magnitude. Digits are at most 2 in magnitude, and errors are in multiples of the largest.
// * Its parts are 0 or multiples of 2^-125, and so are all sums: the tiles, which take subnormal
//   numbers for zeros, meet none. No sum overflows: |sum| <= (1 + 2^-8) 2^127.
// * high is within 2^-8 |x| of x, and low, which rounds the difference, within 2^-17 |x| of that.
//   In units of 2^-24 sum|x| this is 128. A tile product adds 17 (16 pairs in two chains, the sum
//   of both), a sum of n / 32 products of two parts 2 n / 32, the scales and sums of groups of
//   kMinGroupInputs or more n / 16 + 2. Of the inputs that `takes` counts, zeros that complete
//   blocks of up to five are a fifth at most, and those of the last word 14: n >= 190, and all are
//   less than n.
#include <cstring>

#include "avx512.h"
#include "batch/tiles.h"
#include "table.h"

namespace rsr {
namespace {

// Tile registers. Macros, because GCC pastes them into assembly. Those of rows of a panel are
// configured as in batch/tiles.h.
#define SUMS_0 SUMS_00
#define SUMS_1 SUMS_01
#define SUMS_2 SUMS_10
#define SUMS_3 SUMS_11
#define ROWS_A ROWS_0
#define ROWS_B ROWS_1
#define HIGH VECTORS_0
#define LOW VECTORS_1

constexpr size_t kMinVectors = 10;  // fewer take as long one by one
constexpr size_t kMinInputs = 256;
constexpr size_t kMinGroupInputs = 16;
constexpr size_t kMaxVectors = 256;
constexpr size_t kPrepareStep = 16;
constexpr size_t kRoundRows = 4 * W16::kStripRows;
constexpr size_t kMaxRereadBytes = 1 << 20;  // of inputs that are read anew for each unit's rows

constexpr size_t kPanelRows = kRowUnit;
constexpr size_t kStepBytes = kPanelRows * 2 * sizeof(uint16_t);  // of a panel: two inputs
constexpr size_t kTileInputs = 2 * kTileSteps;
constexpr size_t kPairBlocks = 2 * W16::kBlocks;  // of two words

// A section: whole tiles deep if it begins with a word and is not the last of a group.
constexpr size_t section_blocks(int k) { return k == 1 ? 288 : k == 2 ? 144 : 96; }
constexpr size_t kMaxSteps = section_blocks(kMaxK) * kMaxK / 2;
constexpr size_t kPanelBytes = kMaxSteps * kStepBytes;
static_assert(kMaxSteps % kTileSteps == 0);
static_assert(section_blocks(1) / 2 <= kMaxSteps && section_blocks(2) <= kMaxSteps);

// The order in which a panel holds the inputs of a section. Whole blocks are paired: a step has the
// same digit of both.
// * First come the blocks that are not in a pair of whole words: before the first whole word, after
//   the last pair, each paired with the next.
// * Then the inputs of the blocks that are left over, at most two of which the last may have fewer
//   than k inputs, in pairs as they come.
// * Then pairs of whole words.
struct Section {
  size_t begin;  // block
  size_t group;
  size_t inputs;

  size_t head, word_pairs, rest;  // blocks before the first whole word; blocks outside of pairs
  size_t left;                    // inputs left over

  Section(const Grouping& grouping, int k, size_t group, size_t begin, size_t end)
      : begin(begin), group(group) {
    const size_t group_begin = group * grouping.blocks_per_group;
    inputs = min((end - begin) * k,
                 inputs_of_group(grouping, group_begin, k) - (begin - group_begin) * k);
    const size_t whole = inputs / k;
    head = min(whole, (W16::kBlocks - begin % W16::kBlocks) % W16::kBlocks);
    word_pairs = (whole - head) / kPairBlocks;
    rest = whole - word_pairs * kPairBlocks;
    left = rest % 2 * k + inputs % k;
  }

  size_t steps(int k) const {
    return rest / 2 * k + divide_up(left, 2) + word_pairs * kPairBlocks / 2 * k;
  }
  size_t depth(int k) const { return divide_up(steps(k), kTileSteps); }
  // A block that is not in a pair of words.
  size_t rest_block(size_t i) const {
    return begin + i + (i < head ? 0 : word_pairs * kPairBlocks);
  }
};

// Calls body with each section.
template <class Body>
void for_each_section(const Grouping& grouping, int k, const Body& body) {
  for (size_t group = 0, begin = 0; begin < grouping.blocks; group++)
    for (const size_t end = group_end(grouping, begin); begin < end;) {
      const size_t stop = min(end, begin + section_blocks(k));
      body(Section(grouping, k, group, begin, stop));
      begin = stop;
    }
}

// Shared by a pass: its inputs in sections, each (tile, depth, high and low part, vector,
// kTileBytes). Vectors that pad the last tile are not written, and their sums are not read.
size_t shared_bytes(const Grouping& grouping, int k, size_t count) {
  size_t depth = 0;
  for_each_section(grouping, k, [&](const Section& s) { depth += s.depth(k); });
  return depth * tiles_of(count) * 2 * tile_height(count) * kTileBytes;
}

// Both parts of a section's inputs: first those outside of pairs of words. With room for what
// split() and Arrangement read and write beyond.
struct Parts {
  static constexpr size_t kSize = 2 * kMaxSteps + 2 * kMaxK + 64;
  uint16_t high[kSize], low[kSize];

  // The parts of x (n) go to `to`, with zeros up to a multiple of 32. Halves are rounded away from
  // zero.
  void split(const float* x, size_t n, size_t to) {
    const __m512i half = _mm512_set1_epi32(0x8000), mask = _mm512_set1_epi32(0xffff0000);
    const __m512i odd = _mm512_add_epi16(_mm512_set1_epi16(1),
                                         _mm512_slli_epi16(_mm512_loadu_si512(kLaneNumbers), 1));
    for (size_t i = 0; i < n; i += 32) {
      __m512i high_bits[2], low_bits[2];
      for (size_t h = 0; h < 2; h++) {
        const size_t here = min(16, n - min(n, i + 16 * h));
        const __m512 v =
            _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << here) - 1), x + i + 16 * h);
        high_bits[h] = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(v), half), mask);
        const __m512 rest = _mm512_sub_ps(v, _mm512_castsi512_ps(high_bits[h]));
        low_bits[h] = _mm512_add_epi32(_mm512_castps_si512(rest), half);
      }
      _mm512_storeu_si512(high + to + i,
                          _mm512_permutex2var_epi16(high_bits[0], odd, high_bits[1]));
      _mm512_storeu_si512(low + to + i, _mm512_permutex2var_epi16(low_bits[0], odd, low_bits[1]));
    }
  }

  void split(const Section& s, const float* x, int k) {
    const size_t paired = s.word_pairs * kPairBlocks * k, head = s.head * k;
    const size_t after = s.inputs - head - paired;
    split(x, head, 0);
    split(x + head + paired, after, head);
    split(x + head, paired, head + after);
  }

 private:
  alignas(64) static constexpr uint16_t kLaneNumbers[32] = {
      0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
      16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};
};

// Brings the parts of a section into the order of its steps.
class Arrangement {
 public:
  Arrangement() = default;
  Arrangement(const Section& s, int k) : begin_(s.begin % W16::kBlocks), inputs_(s.inputs) {
    size_t step = 0, done = 0;
    const auto add_pair = [&](size_t width) {  // of runs of adjacent inputs
      for (size_t i = 0; i < width; i++) add_step(step++, done + i, done + width + i);
      done += 2 * width;
    };
    for (size_t i = 0; i < s.rest / 2; i++) add_pair(k);
    for (size_t i = 0; i + 1 < s.left; i += 2) add_pair(1);
    if (s.left % 2) add_step(step++, done, kNone), done++;
    for (size_t i = 0; i < s.word_pairs; i++) add_pair(W16::kBlocks * k);
    depth_ = divide_up(step, kTileSteps);
    while (step % kTileSteps) add_step(step++, kNone, kNone);
  }

  bool serves(const Section& s) const {
    return s.begin % W16::kBlocks == begin_ && s.inputs == inputs_;
  }

  // Part (2 kTileInputs of each depth), to rows of tiles that are `stride` apart.
  void operator()(const uint16_t* part, size_t stride, char* to) const {
    for (size_t d = 0; d < depth_; d++, to += stride) {
      const uint16_t* from = part + base_[d];
      _mm512_storeu_si512(to, _mm512_maskz_permutex2var_epi16(mask_[d], _mm512_loadu_si512(from),
                                                              _mm512_loadu_si512(from_[d]),
                                                              _mm512_loadu_si512(from + 32)));
    }
  }

 private:
  static constexpr size_t kNone = ~size_t(0);

  // The 32 inputs of a tile are among 64 adjacent ones: they come from whole pairs of runs, each
  // adjacent, but for the first and the last, which have at most 30.
  void add_step(size_t step, size_t a, size_t b) {
    const size_t d = step / kTileSteps, at = step % kTileSteps * 2;
    if (at == 0) base_[d] = a == kNone ? 0 : a, mask_[d] = 0;
    for (size_t i = 0; i < 2; i++) {
      const size_t input = i ? b : a;
      if (input == kNone) continue;
      from_[d][at + i] = static_cast<uint16_t>(input - base_[d]);
      mask_[d] |= 1u << (at + i);
    }
  }

  size_t begin_ = 0, inputs_ = 0, depth_ = 0;
  size_t base_[kMaxSteps / kTileSteps + 1];
  __mmask32 mask_[kMaxSteps / kTileSteps + 1];
  alignas(64) uint16_t from_[kMaxSteps / kTileSteps + 1][kTileInputs];
};

void prepare(const float* x, const float*, int k, size_t columns, const Grouping& grouping,
             size_t count, size_t first, size_t last, void* shared) {
  const size_t inputs = columns * W16::kBlocks * k;
  const size_t height = tile_height(count), row_bytes = 2 * height * kTileBytes;
  char* section = static_cast<char*>(shared);
  Arrangement arrangements[W16::kBlocks];
  Parts parts[2];
  for_each_section(grouping, k, [&](const Section& s) {
    Arrangement& arrange = arrangements[s.begin % W16::kBlocks];
    if (!arrange.serves(s)) arrange = Arrangement(s, k);
    const size_t tile_bytes = s.depth(k) * row_bytes;
    // One vector ahead: a load of what was just stored by several stores waits for them.
    const float* from = x + s.begin * k;
    parts[first % 2].split(s, from + first * inputs, k);
    for (size_t i = first; i < last; i++) {
      if (i + 1 < last) parts[(i + 1) % 2].split(s, from + (i + 1) * inputs, k);
      const Parts& here = parts[i % 2];
      char* to = section + i / height * tile_bytes + i % height * kTileBytes;
      arrange(here.high, row_bytes, to);
      arrange(here.low, row_bytes, to + row_bytes / 2);
    }
    section += tiles_of(count) * tile_bytes;
  });
}

// The digits of ranks in bfloat16. A lookup ignores all but five bits of a lane.
struct Digits {
  __m512i of[kMaxK];
};

Digits digits_of(const float* patterns, int k) {
  Digits digits{};
  for (int d = 0; d < k; d++) {
    alignas(64) uint16_t values[kPatterns];
    for (size_t p = 0; p < kPatterns; p++) {
      uint32_t bits;
      std::memcpy(&bits, patterns + d * kPatterns + p, sizeof bits);
      values[p] = static_cast<uint16_t>(bits >> 16);
    }
    digits.of[d] = _mm512_load_si512(values);
  }
  return digits;
}

// Makes the panel of a section and 32 rows, a few steps at a time.
template <int K>
class PanelMaker {
 public:
  // words: of the first row, in word column 0.
  PanelMaker(const Section& s, const uint16_t* words, size_t height, int k, const Digits& digits,
             char* panel)
      : section_(s),
        words_(words),
        height_(height),
        ahead_(s.inputs / (W16::kBlocks * k) * height),
        k_(k),
        digits_(digits),
        to_(panel) {}

  void make() {
    make_rest();
    for (size_t i = 0; i < section_.word_pairs; i++) make_word_pair(i);
  }

 private:
  size_t k() const { return K ? K : k_; }
  __m512i block(size_t b) const {
    return _mm512_srlv_epi16(
        load(words_ + b / W16::kBlocks * height_),
        _mm512_set1_epi16(static_cast<short>(b % W16::kBlocks * W16::kRankBits)));
  }

  // The k steps of two blocks, whose ranks are in adjacent lanes.
  void add_steps(const __m512i* digits, __m512i low, __m512i high) {
    const size_t width = k();
    for (size_t d = 0; d < width; d++) {
      _mm512_storeu_si512(to_ + d * kStepBytes, _mm512_permutexvar_epi16(low, digits[d]));
      _mm512_storeu_si512(to_ + d * kStepBytes + 64, _mm512_permutexvar_epi16(high, digits[d]));
    }
    to_ += width * kStepBytes;
  }

  void make_word_pair(size_t i) {
    const __m512i by5 = _mm512_set1_epi16(1 << 11), by10 = _mm512_set1_epi16(1 << 6);
    const size_t first = (section_.begin + section_.head) / W16::kBlocks + 2 * i;
    const uint16_t* words = words_ + first * height_;
    const uint16_t* ahead = words + ahead_;
    _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(ahead + height_), _MM_HINT_T0);
    const __m512i a = load(words), b = load(words + height_);
    const __m512i low = _mm512_unpacklo_epi16(a, b), high = _mm512_unpackhi_epi16(a, b);
    // In registers: for all that the compiler knows, the stores of steps change digits_.
    __m512i digits[kMaxK];
    for (size_t d = 0; d < k(); d++) digits[d] = digits_.of[d];
    add_steps(digits, low, high);
    add_steps(digits, _mm512_mulhi_epu16(low, by5), _mm512_mulhi_epu16(high, by5));
    add_steps(digits, _mm512_mulhi_epu16(low, by10), _mm512_mulhi_epu16(high, by10));
  }

  void make_rest() {
    const Section& s = section_;
    char* const panel = to_;
    for (size_t i = 0; i + 1 < s.rest; i += 2) {
      const __m512i a = block(s.rest_block(i)), b = block(s.rest_block(i + 1));
      add_steps(digits_.of, _mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b));
    }
    const size_t odd = s.rest / 2 * 2;
    for (size_t i = 0; i < s.left; i += 2, to_ += kStepBytes) {
      const size_t j = i + 1 < s.left ? i + 1 : i;
      const __m512i a = block(s.rest_block(odd + i / k())), b = block(s.rest_block(odd + j / k()));
      const __m512i a_digits = _mm512_permutexvar_epi16(a, digits_.of[i % k()]);
      const __m512i b_digits = _mm512_permutexvar_epi16(b, digits_.of[j % k()]);
      _mm512_storeu_si512(to_, _mm512_unpacklo_epi16(a_digits, b_digits));
      _mm512_storeu_si512(to_ + 64, _mm512_unpackhi_epi16(a_digits, b_digits));
    }
    // Inputs that complete the last tile are zeros, but what they meet must be finite.
    const size_t end = s.depth(k()) * kTileSteps * kStepBytes, done = s.steps(k()) * kStepBytes;
    std::memset(panel + done, 0, end - done);
  }

  const Section section_;
  const uint16_t* words_;
  const size_t height_, ahead_;  // ahead_: from a word to that of the next section
  const int k_;
  const Digits& digits_;
  char* to_;
};

// A unit is multiplied at once: a panel and two tiles of vectors, or two panels and the only tile.
// Its sums: four tiles, (panel, tile of vectors, half of a panel, vector, 16 rows).
constexpr size_t kUnitPanels = 2;
constexpr size_t kUnitSums = 2 * kUnitPanels * kTileSums;

struct PerThread {
  TileConfig config;
  alignas(64) char panels[kUnitPanels][kPanelBytes];
  alignas(64) float scales[kUnitPanels][kPanelRows];
  alignas(64) float unit[kUnitSums];  // of a group, to be scaled
};

// Then the sums of a round, (panel, tile of vectors, half of a panel, vector, 16 rows).
size_t per_thread_bytes(const Grouping&, int, size_t count) {
  return sizeof(PerThread) +
         kRoundRows / kPanelRows * tiles_of(count) * 2 * kTileSums * sizeof(float);
}

// sums += the sums of a group, a panel and a tile of vectors * the scales of its rows.
inline void add_scaled(const float* group, const float* scales, size_t height, bool is_first,
                       float* sums) {
  for (size_t half = 0; half < 2; half++, group += kTileSums, sums += kTileSums) {
    const __m512 scale = _mm512_load_ps(scales + 16 * half);
    if (is_first)
      for (size_t v = 0; v < 16 * height; v += 16)
        _mm512_store_ps(sums + v, _mm512_mul_ps(_mm512_load_ps(group + v), scale));
    else
      for (size_t v = 0; v < 16 * height; v += 16)
        _mm512_store_ps(
            sums + v, _mm512_fmadd_ps(_mm512_load_ps(group + v), scale, _mm512_load_ps(sums + v)));
  }
}

// Adds the products of one panel or two and a tile of inputs to the tiles of sums.
template <bool kTwoPanels>
inline void multiply_tile(const char* panel, const char* x, size_t height, size_t depth) {
  for (size_t d = 0; d < depth; d++, panel += kTileSteps * kStepBytes) {
    _tile_loadd(HIGH, x, kTileBytes);
    _tile_loadd(ROWS_A, panel, kStepBytes);
    _tile_dpbf16ps(SUMS_0, HIGH, ROWS_A);
    _tile_loadd(ROWS_B, panel + 64, kStepBytes);
    _tile_dpbf16ps(SUMS_1, HIGH, ROWS_B);
    x += height * kTileBytes;
    _tile_loadd(LOW, x, kTileBytes);
    _tile_dpbf16ps(SUMS_0, LOW, ROWS_A);
    _tile_dpbf16ps(SUMS_1, LOW, ROWS_B);
    x += height * kTileBytes;
    if (kTwoPanels) {
      _tile_loadd(ROWS_A, panel + kPanelBytes, kStepBytes);
      _tile_dpbf16ps(SUMS_2, HIGH, ROWS_A);
      _tile_loadd(ROWS_B, panel + kPanelBytes + 64, kStepBytes);
      _tile_dpbf16ps(SUMS_3, HIGH, ROWS_B);
      _tile_dpbf16ps(SUMS_2, LOW, ROWS_A);
      _tile_dpbf16ps(SUMS_3, LOW, ROWS_B);
    }
  }
}

// The same of one panel and two tiles of inputs, tile_bytes apart.
inline void multiply_two_tiles(const char* panel, const char* x, size_t tile_bytes, size_t height,
                               size_t depth) {
  const size_t part_bytes = height * kTileBytes;
  for (size_t d = 0; d < depth; d++, panel += kTileSteps * kStepBytes) {
    for (size_t part = 0; part < 2; part++, x += part_bytes) {
      _tile_loadd(VECTORS_0, x, kTileBytes);
      if (part == 0) _tile_loadd(ROWS_A, panel, kStepBytes);
      _tile_dpbf16ps(SUMS_0, VECTORS_0, ROWS_A);
      if (part == 0) _tile_loadd(ROWS_B, panel + 64, kStepBytes);
      _tile_dpbf16ps(SUMS_1, VECTORS_0, ROWS_B);
      _tile_loadd(VECTORS_1, x + tile_bytes, kTileBytes);
      _tile_dpbf16ps(SUMS_2, VECTORS_1, ROWS_A);
      _tile_dpbf16ps(SUMS_3, VECTORS_1, ROWS_B);
    }
  }
}

// The scales of a group and 32 rows, in the order of a panel's rows.
void order_scales(const GroupScales& scales, size_t group, size_t row, float* to) {
  const char* from = scales_at(scales, group, row);
  __m512i first, second;
  if (scales.is_half) {
    const __m512i halves = load(from);
    first = _mm512_castps_si512(_mm512_cvtph_ps(_mm512_castsi512_si256(halves)));
    second = _mm512_castps_si512(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1)));
  } else {
    first = load(from), second = load(from + 64);
  }
  const __m512i low = _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13);
  const __m512i high = _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15);
  _mm512_store_si512(to, _mm512_permutex2var_epi64(first, low, second));
  _mm512_store_si512(to + 16, _mm512_permutex2var_epi64(first, high, second));
}

// Writes the sums of a panel's rows in row order.
void store_rows(const float* low_sums, const float* high_sums, float* y) {
  const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  const __m512i low = load(low_sums), high = load(high_sums);
  _mm512_storeu_si512(y, _mm512_permutex2var_epi64(low, first, high));
  _mm512_storeu_si512(y + 16, _mm512_permutex2var_epi64(low, second, high));
}

// Rows of several strips times all vectors of a pass; scales: null without groups.
template <int K>
class Product {
 public:
  Product(const RankedRows& rows, const Grouping& grouping, const GroupScales* scales,
          const float* patterns, int k, const void* shared, size_t count, void* memory)
      : rows_(rows),
        grouping_(grouping),
        scales_(scales),
        k_(k),
        count_(count),
        tiles_(tiles_of(count)),
        height_(tile_height(count)),
        unit_tiles_(tiles_ == 1 ? 1 : 2),
        unit_panels_(kUnitPanels / unit_tiles_),
        round_rows_(shared_bytes(grouping, k, count) > kMaxRereadBytes ? kRoundRows
                                                                       : unit_panels_ * kPanelRows),
        keeps_sums_(!scales && tiles_ == unit_tiles_ && round_rows_ == unit_panels_ * kPanelRows),
        digits_(digits_of(patterns, k)),
        inputs_(static_cast<const char*>(shared)),
        memory_(*static_cast<PerThread*>(memory)),
        all_sums_(reinterpret_cast<float*>(&memory_ + 1)) {}

  void run(float* y, size_t stride) {
    for (size_t row = rows_.first, stop; row < rows_.last; row = stop) {
      stop = min(rows_.last, row / round_rows_ * round_rows_ + round_rows_);
      multiply(row, stop);
      for (size_t r = row; r < stop; r += kPanelRows)
        for (size_t i = 0; i < count_; i++) {
          const float* low = sums(r - row, i / height_) + i % height_ * 16;
          store_rows(low, low + kTileSums, y + i * stride + r - rows_.first);
        }
    }
  }

 private:
  // Of a tile of vectors and the panel that begins with a row of the round.
  float* sums(size_t row, size_t tile) const {
    return all_sums_ + (row / kPanelRows * tiles_ + tile) * 2 * kTileSums;
  }

  // Rows [first, last).
  void multiply(size_t first, size_t last) {
    const char* x = inputs_;
    for_each_section(grouping_, k_, [&](const Section& s) {
      for (size_t row = first; row < last; row += unit_panels_ * kPanelRows) {
        const size_t panels = min(unit_panels_, (last - row) / kPanelRows);
        for (size_t i = 0; i < panels; i++) make_panel(s, row + i * kPanelRows, i);
        written_before_tiles_read();
        multiply_panels(s, x, row - first, panels);
      }
      x += tiles_ * s.depth(k_) * 2 * height_ * kTileBytes;
    });
  }

  void make_panel(const Section& s, size_t row, size_t i) const {
    const size_t strip = row / W16::kStripRows * W16::kStripRows;
    const uint16_t* words = reinterpret_cast<const uint16_t*>(rows_.index) + strip * rows_.columns;
    PanelMaker<K>(s, words + row - strip, strip_height<W16>(rows_.end - strip), k_, digits_,
                  memory_.panels[i])
        .make();
    if (scales_) order_scales(*scales_, s.group, row - rows_.first, memory_.scales[i]);
  }

  // The panels that begin with a row of the round times all vectors.
  void multiply_panels(const Section& s, const char* x, size_t row, size_t panels) {
    const size_t depth = s.depth(k_), tile_bytes = depth * 2 * height_ * kTileBytes;
    const char* panel = memory_.panels[0];
    const bool is_first = s.begin == 0,
               is_last = s.begin + divide_up(s.inputs, k_) == grouping_.blocks;
    for (size_t t = 0; t < tiles_; t += unit_tiles_, x += unit_tiles_ * tile_bytes) {
      const size_t tiles = min(unit_tiles_, tiles_ - t);
      float* all = sums(row, t);
      float* to = scales_ ? memory_.unit : all;
      const bool is_four = tiles * panels == 2;
      if (is_first || !keeps_sums_) {
        const float* from = scales_ || is_first ? nullptr : to;
        is_four ? begin_sums<true>(from) : begin_sums<false>(from);
      }
      if (tiles == 2)
        multiply_two_tiles(panel, x, tile_bytes, height_, depth);
      else
        panels == 2 ? multiply_tile<true>(panel, x, height_, depth)
                    : multiply_tile<false>(panel, x, height_, depth);
      if (is_last || !keeps_sums_) is_four ? store_sums<true>(to) : store_sums<false>(to);
      written_before_tiles_read();
      if (!scales_) continue;
      for (size_t i = 0; i < tiles * panels; i++)
        add_scaled(to + i * 2 * kTileSums, memory_.scales[panels == 2 ? i : 0], height_, is_first,
                   all + i * 2 * kTileSums);
    }
  }

  const RankedRows& rows_;
  const Grouping& grouping_;
  const GroupScales* scales_;
  const int k_;
  const size_t count_, tiles_, height_;
  const size_t unit_tiles_, unit_panels_;  // two tiles and a panel, or a tile and two panels
  const size_t round_rows_;
  const bool keeps_sums_;  // in tile registers from one section to the next
  const Digits digits_;
  const char* inputs_;
  PerThread& memory_;
  float* all_sums_;
};

void multiply_any(const RankedRows& rows, const Grouping& grouping, const GroupScales* scales,
                  const float* patterns, int k, const void* shared, size_t count, void* memory,
                  float* y, size_t stride) {
  configure_tiles(tile_height(count), static_cast<PerThread*>(memory)->config);
  with_k(k, [&](auto K) {
    Product<K>(rows, grouping, scales, patterns, k, shared, count, memory).run(y, stride);
  });
  _tile_release();
}

void multiply_grouped(const RankedRows& rows, const GroupScales& scales, const float* patterns,
                      int k, const void* shared, size_t count, void* memory, float* y,
                      size_t stride) {
  multiply_any(rows, scales.grouping, &scales, patterns, k, shared, count, memory, y, stride);
}

// Without groups: sections of 60 to 63 steps, in four tiles. Four panels of so many are in L1.
Grouping parts_of(size_t columns, int k) {
  constexpr size_t kBlocks[kMaxK] = {126, 60, 42, 30, 24};  // of pairs of words
  return {kBlocks[k - 1], columns * W16::kBlocks};
}

size_t shared_bytes_of_all(size_t columns, int k, size_t count) {
  return shared_bytes(parts_of(columns, k), k, count);
}

size_t per_thread_bytes_of_all(size_t columns, int k, size_t count) {
  return per_thread_bytes(parts_of(columns, k), k, count);
}

void prepare_all(const float* x, const float* patterns, int k, size_t columns, size_t count,
                 size_t first, size_t last, void* shared) {
  prepare(x, patterns, k, columns, parts_of(columns, k), count, first, last, shared);
}

void multiply_all(const RankedRows& rows, const float* patterns, int k, const void* shared,
                  size_t count, void* memory, float* y, size_t stride) {
  multiply_any(rows, parts_of(rows.columns, k), nullptr, patterns, k, shared, count, memory, y,
               stride);
}

// The bound above.
bool takes(const float* x, size_t n) {
  if (n < kMinInputs) return false;
  // Of magnitudes as integers, whose order is that of the numbers; NaN is above infinity.
  const auto magnitude = [](float bound) { return _mm512_castps_si512(_mm512_set1_ps(bound)); };
  const __m512i least = magnitude(0x1p-102f);
  const __m512i most = magnitude(0x1p126f / static_cast<float>(n));
  __mmask16 outside = 0;
  const auto look = [&](__m512i v) {
    const __m512i size = _mm512_and_si512(v, _mm512_set1_epi32(0x7fffffff));
    const __mmask16 small = _mm512_cmplt_epi32_mask(size, least);
    outside |= _mm512_cmpgt_epi32_mask(size, most) | _mm512_mask_test_epi32_mask(small, size, size);
  };
  constexpr size_t kAtOnce = 128;  // inputs between branches
  size_t i = 0;
  for (; i + kAtOnce <= n && !outside; i += kAtOnce)
    for (size_t j = 0; j < kAtOnce; j += 16) look(_mm512_loadu_si512(x + i + j));
  for (; i < n && !outside; i += 16) {
    const auto here = static_cast<__mmask16>((1u << min(16, n - i)) - 1);
    look(_mm512_maskz_loadu_epi32(here, x + i));
  }
  return !outside;
}

}  // namespace

void fill_panels_bf16_amx(KernelTable& table) {
  table.w16_f32.large_batch = {
      kMinVectors, kMaxVectors,  shared_bytes_of_all, per_thread_bytes_of_all,
      prepare_all, multiply_all, kPrepareStep,        takes};
  table.w16_f32.large_grouped_batch = {kMinVectors,      kMaxVectors, shared_bytes,
                                       per_thread_bytes, prepare,     multiply_grouped,
                                       kPrepareStep,     takes,       kMinGroupInputs};
}

}  // namespace rsr
