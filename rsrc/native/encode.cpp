#include "encode.h"

#include <algorithm>
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

unsigned padding_rank(const Alphabet& alphabet) {
  unsigned value = 0;
  for (int d = 0; d < alphabet.k; d++) value = value * alphabet.base + alphabet.pad;
  return value;
}

// The word of row r in word column g, where all nine (fifteen) columns exist.
inline unsigned whole_word(const Digits& a, const Alphabet& alphabet, size_t r, size_t g,
                           unsigned& bad) {
  return rank<true>(a, alphabet, r, 3 * g, bad) | rank<true>(a, alphabet, r, 3 * g + 1, bad) << 5 |
         rank<true>(a, alphabet, r, 3 * g + 2, bad) << 10;
}

}  // namespace

bool pack_w16(const Digits& a, const Alphabet& given, uint16_t* out) {
  const size_t padded = (a.rows + kLanes - 1) / kLanes * kLanes;
  const size_t words = (blocks(a, given.k) + kRanksPerWord - 1) / kRanksPerWord;
  const size_t whole = a.columns / (kRanksPerWord * given.k);
  const unsigned pad = padding_rank(given);
  unsigned bad = 0;
  // Constants the compiler can unroll for in the usual case, ternary k = 3.
  const bool usual = given.base == 3 && given.k == 3 && a.column_stride == 1;
  for (size_t first = 0; first < padded; first += kStripRows) {
    const size_t height = std::min(kStripRows, padded - first);
    // Tiles of 32 rows: what is written for a word column is one cache line.
    for (size_t r0 = 0; r0 < height; r0 += kLanes) {
      uint16_t* tile = out + first * words + r0;
      const size_t real = std::min(kLanes, a.rows - std::min(a.rows, first + r0));
      for (size_t g = 0; g < words; g++) {
        for (size_t i = 0; i < kLanes; i++) {
          const size_t r = first + r0 + i;
          unsigned word;
          if (i >= real) {
            word = pad | pad << 5 | pad << 10;
          } else if (g >= whole) {
            word = 0;
            for (size_t n = 0; n < kRanksPerWord; n++)
              word |= rank<false>(a, given, r, 3 * g + n, bad) << (5 * n);
          } else if (usual) {
            const uint8_t* d = a.data + ptrdiff_t(r) * a.row_stride + 9 * g;
            unsigned value[3];
            for (int n = 0; n < 3; n++) {
              value[n] = 9u * d[3 * n] + 3u * d[3 * n + 1] + d[3 * n + 2];
              bad |= (d[3 * n] > 2) | (d[3 * n + 1] > 2) | (d[3 * n + 2] > 2);
            }
            word = value[0] | value[1] << 5 | value[2] << 10;
          } else {
            word = whole_word(a, given, r, g, bad);
          }
          tile[g * height + i] = static_cast<uint16_t>(word);
        }
      }
    }
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
