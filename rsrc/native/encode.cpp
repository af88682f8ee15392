#include "encode.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace rsr {
namespace {

// The rank of row r in column block j: its k digits read as a number in base B.
// `seen` collects the bits of all digits that are not below the base.
template <bool Whole>
inline unsigned rank(const Digits& a, const Alphabet& alphabet, size_t r, size_t j, unsigned& bad) {
  unsigned value = 0;
  for (int d = 0; d < alphabet.k; d++) {
    const size_t c = j * alphabet.k + d;
    const unsigned digit = Whole || c < a.columns ? a.at(r, c) : alphabet.pad;
    bad |= digit >= static_cast<unsigned>(alphabet.base);
    value = value * alphabet.base + digit;
  }
  return value;
}

// The rank of the pattern of a number; `bad` collects whether one is not listed.
inline unsigned listed_rank(const Alphabet& alphabet, unsigned number, unsigned& bad) {
  if (alphabet.listed == nullptr) return number;
  const unsigned value = alphabet.listed->of[number & 255];  // a bad digit makes it any number
  bad |= value == kNotListed;
  return value & 31;
}

unsigned padding_rank(const Alphabet& alphabet) {
  unsigned number = 0, not_listed = 0;
  for (int d = 0; d < alphabet.k; d++) number = number * alphabet.base + alphabet.pad;
  const unsigned value = listed_rank(alphabet, number, not_listed);
  return not_listed ? 0 : value;
}

// The word of 3 K digits of base B that are neighbors, read eight at a time. One multiplication by
// the bytes 1, B, B^2, ... leaves a rank in the byte of its last digit: sums stay below 32, so
// nothing carries. Three times as fast as digit by digit.
template <unsigned B, unsigned K>
inline unsigned word_of_neighbors(const uint8_t* digits, uint64_t& bad) {
  uint64_t weights = 0;
  for (unsigned d = 0, weight = 1; d < K; d++, weight *= B) weights |= uint64_t(weight) << (8 * d);
  unsigned word = 0;
  for (unsigned n = 0; n < kRanksPerWord; n++) {
    const unsigned first = std::min(n * K, 3 * K - 8);
    uint64_t eight;
    std::memcpy(&eight, digits + first, sizeof eight);        // little-endian, as the file is
    bad |= (eight + (128 - B) * 0x0101010101010101) | eight;  // bit 7 of a byte: not below B
    word |= unsigned(eight * weights >> (8 * (n * K + K - 1 - first)) & 31) << (5 * n);
  }
  return word;
}

// The number of the pattern of four neighboring ternary digits. The product's last byte is
// 27 d0 + 9 d1 + 3 d2 + d3 <= 80, and nothing carries into it.
inline unsigned number_of_four(const uint8_t* digits, uint32_t& bad) {
  uint32_t four = 0;
  for (int d = 0; d < 4; d++) four |= uint32_t(digits[d]) << (8 * d);  // one load
  bad |= ((four + (128 - 3) * 0x01010101u) | four) & 0x80808080u;
  return four * 0x1b090301u >> 24;
}

// whole_word(r, g): the word of row r in word column g, where all its columns exist.
template <class WholeWord>
bool pack(const Digits& a, const Alphabet& alphabet, uint16_t* out, const WholeWord& whole_word) {
  const size_t padded = (a.rows + kLanes - 1) / kLanes * kLanes;
  const size_t count = blocks(a, alphabet.k), words = (count + kRanksPerWord - 1) / kRanksPerWord;
  const size_t whole = a.columns / (kRanksPerWord * alphabet.k);
  const unsigned pad = padding_rank(alphabet);
  unsigned bad = 0;
  for (size_t first = 0; first < padded; first += kStripRows) {
    const size_t height = std::min(kStripRows, padded - first);
    // Tiles of 32 rows: what is written for a word column is one cache line.
    for (size_t r0 = 0; r0 < height; r0 += kLanes) {
      uint16_t* tile = out + first * words + r0;
      const size_t real = std::min(kLanes, a.rows - std::min(a.rows, first + r0));
      for (size_t g = 0; g < words; g++, tile += height) {
        for (size_t i = 0; i < real; i++) {
          const size_t r = first + r0 + i;
          unsigned word = 0;
          if (g < whole)
            word = whole_word(r, g);
          else
            for (size_t n = 0, j = 3 * g; n < kRanksPerWord; n++, j++)
              word |= (j < count ? listed_rank(alphabet, rank<false>(a, alphabet, r, j, bad), bad)
                                 : pad)
                      << (5 * n);
          tile[i] = static_cast<uint16_t>(word);
        }
        std::fill(tile + real, tile + kLanes, static_cast<uint16_t>(pad | pad << 5 | pad << 10));
      }
    }
  }
  return bad == 0;
}

template <unsigned B, unsigned K>
bool pack_neighbors(const Digits& a, const Alphabet& alphabet, uint16_t* out) {
  uint64_t bad = 0;
  const bool good = pack(a, alphabet, out, [&](size_t r, size_t g) {
    return word_of_neighbors<B, K>(a.data + ptrdiff_t(r) * a.row_stride + 3 * K * g, bad);
  });
  return good && (bad & 0x8080808080808080) == 0;
}

// Listed patterns of four ternary digits.
bool pack_fours(const Digits& a, const Alphabet& alphabet, uint16_t* out) {
  uint32_t bad = 0;
  unsigned not_listed = 0;
  const bool good = pack(a, alphabet, out, [&](size_t r, size_t g) {
    const uint8_t* digits = a.data + ptrdiff_t(r) * a.row_stride + 12 * g;
    unsigned word = 0;
    for (unsigned n = 0; n < kRanksPerWord; n++)
      word |= listed_rank(alphabet, number_of_four(digits + 4 * n, bad), not_listed) << (5 * n);
    return word;
  });
  return good && bad == 0 && not_listed == 0;
}

}  // namespace

bool pack_w16(const Digits& a, const Alphabet& alphabet, uint16_t* out) {
  // What the cost model chooses: the largest k of either base, and four listed digits.
  if (a.column_stride == 1 && alphabet.listed == nullptr) {
    if (alphabet.base == 3 && alphabet.k == 3) return pack_neighbors<3, 3>(a, alphabet, out);
    if (alphabet.base == 2 && alphabet.k == 5) return pack_neighbors<2, 5>(a, alphabet, out);
  }
  if (a.column_stride == 1 && alphabet.listed && alphabet.base == 3 && alphabet.k == 4)
    return pack_fours(a, alphabet, out);
  unsigned bad = 0;
  const bool good = pack(a, alphabet, out, [&](size_t r, size_t g) {
    unsigned word = 0;
    for (size_t n = 0; n < kRanksPerWord; n++)
      word |= listed_rank(alphabet, rank<true>(a, alphabet, r, 3 * g + n, bad), bad) << (5 * n);
    return word;
  });
  return good && bad == 0;
}

bool mark_patterns(const Digits& a, int base, int k, size_t stride, uint8_t* seen) {
  constexpr size_t kTogether = 16;  // blocks whose numbers are made side by side
  const size_t run = k * stride;
  const uint8_t letters = static_cast<uint8_t>(base);
  uint32_t bad_fours = 0;
  uint8_t bad = 0;
  if (base == 3 && k == 4 && stride == 1 && a.column_stride == 1) {
    for (size_t r = 0; r < a.rows; r++) {
      const uint8_t* row = a.data + ptrdiff_t(r) * a.row_stride;
      for (size_t c = 0; c < a.columns; c += 4) seen[number_of_four(row + c, bad_fours)] = 1;
    }
    return bad_fours == 0;
  }
  for (size_t r = 0; r < a.rows; r++)
    for (size_t c = 0; c < a.columns; c += run)
      for (size_t j = 0; j < stride; j += kTogether) {
        uint8_t numbers[kTogether] = {};  // wrong where a digit is bad, and in range
        const size_t count = std::min(kTogether, stride - j);
        for (int p = 0; p < k; p++) {
          uint8_t digits[kTogether] = {};
          const size_t first = c + p * stride + j;
          if (a.column_stride == 1 && count == kTogether)
            std::memcpy(digits, a.data + ptrdiff_t(r) * a.row_stride + first, kTogether);
          else
            for (size_t i = 0; i < count; i++) digits[i] = a.at(r, first + i);
          for (size_t i = 0; i < kTogether; i++) {
            bad |= static_cast<uint8_t>(digits[i] >= letters);
            numbers[i] = static_cast<uint8_t>(numbers[i] * letters + digits[i]);
          }
        }
        for (size_t i = 0; i < count; i++) seen[numbers[i]] = 1;
      }
  return bad == 0;
}

template <class Index>
bool sort_blocks(const Digits& a, const Alphabet& alphabet, Index* permutation, Index* segments) {
  const size_t count = blocks(a, alphabet.k), patterns = alphabet.patterns();
  std::vector<uint16_t> ranks(a.rows);
  std::vector<size_t> next(patterns + 1);
  for (size_t j = 0; j < count; j++, permutation += a.rows, segments += patterns + 1) {
    unsigned bad = 0;
    const bool whole = (j + 1) * alphabet.k <= a.columns;
    for (size_t r = 0; r < a.rows; r++)
      ranks[r] = static_cast<uint16_t>(whole ? rank<true>(a, alphabet, r, j, bad)
                                             : rank<false>(a, alphabet, r, j, bad));
    if (bad) return false;  // before a rank is used as an index
    std::fill(next.begin(), next.end(), 0);
    for (size_t r = 0; r < a.rows; r++) next[ranks[r] + 1]++;
    for (size_t s = 0; s < patterns; s++) next[s + 1] += next[s];
    std::copy(next.begin(), next.end(), segments);
    for (size_t r = 0; r < a.rows; r++) permutation[next[ranks[r]]++] = static_cast<Index>(r);
  }
  return true;
}

template bool sort_blocks(const Digits&, const Alphabet&, uint16_t*, uint16_t*);
template bool sort_blocks(const Digits&, const Alphabet&, uint32_t*, uint32_t*);

}  // namespace rsr
