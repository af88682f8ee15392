#include "encode.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace rsr {
namespace {

// The number of the pattern of row r in column block j. `bad` is set if a digit is not below base.
// Whole: the matrix has all k columns; otherwise missing columns are padding.
// Bound: base^k <= 2^16. Bad digits may wrap `value`, which is then not used.
template <bool Whole>
inline unsigned pattern_number(const Digits& a, const Alphabet& alphabet, size_t r, size_t j,
                               unsigned& bad) {
  unsigned value = 0;
  for (int d = 0; d < alphabet.k; d++) {
    const size_t c = j * alphabet.k + d;
    const unsigned digit = Whole || c < a.columns ? a.at(r, c) : alphabet.pad;
    bad |= digit >= static_cast<unsigned>(alphabet.base);
    value = value * alphabet.base + digit;
  }
  return value;
}

// The rank of the pattern with this number. `bad` is set if the pattern is not listed.
inline unsigned listed_rank(const Alphabet& alphabet, unsigned number, unsigned& bad) {
  if (alphabet.listed == nullptr) return number;
  const unsigned found = alphabet.listed->of[number & 255];  // bad digits can make any number
  bad |= found == kNotListed;
  return found % kPatterns;
}

// The rank of the pattern of row r in column block j; `bad` and Whole as above.
template <bool Whole>
inline unsigned rank(const Digits& a, const Alphabet& alphabet, size_t r, size_t j, unsigned& bad) {
  return listed_rank(alphabet, pattern_number<Whole>(a, alphabet, r, j, bad), bad);
}

// The rank of padding rows and blocks: that of k padding digits, 0 if that pattern is not listed.
unsigned padding_rank(const Alphabet& alphabet) {
  unsigned number = 0, not_listed = 0;
  for (int d = 0; d < alphabet.k; d++) number = number * alphabet.base + alphabet.pad;
  const unsigned value = listed_rank(alphabet, number, not_listed);
  return not_listed ? 0 : value;
}

constexpr unsigned power(unsigned base, unsigned k) { return k ? base * power(base, k - 1) : 1; }

// The word of 3 K adjacent digits in base B, three ranks of K digits each. Loads up to eight digits
// into the bytes of a uint64_t and multiplies by the bytes 1, B, B^2, ...: byte i of the product is
// digit[i] + B digit[i - 1] + B^2 digit[i - 2] ..., so the byte of a rank's last digit holds the
// rank. Bound: each byte sums at most K terms, at most B^K - 1 <= 31 (3^3 - 1 = 26, 2^5 - 1 = 31,
// 5^2 - 1 = 24), so no byte carries into the next. Three times as fast as one digit at a time.
template <unsigned B, unsigned K>
inline unsigned word_of_neighbors(const uint8_t* digits, uint64_t& bad) {
  static_assert(power(B, K) <= kPatterns);
  uint64_t weights = 0;
  for (unsigned d = 0, weight = 1; d < K; d++, weight *= B) weights |= uint64_t(weight) << (8 * d);
  unsigned word = 0;
  for (unsigned n = 0; n < W16::kBlocks; n++) {
    constexpr unsigned kLoaded = std::min(3 * K, 8u);
    const unsigned first = std::min(n * K, 3 * K - kLoaded);
    uint64_t eight = 0;
    std::memcpy(&eight, digits + first, kLoaded);             // little-endian, as the files are
    bad |= (eight + (128 - B) * 0x0101010101010101) | eight;  // bit 7 of a byte: digit >= B
    word |= unsigned(eight * weights >> (8 * (n * K + K - 1 - first)) & 31) << (5 * n);
  }
  return word;
}

// The number of the pattern of four adjacent ternary digits, by the same multiplication. The top
// byte of the product is 27 d0 + 9 d1 + 3 d2 + d3 <= 80; the bytes below are at most 26, 8 and 2,
// so nothing carries into it.
inline unsigned number_of_four(const uint8_t* digits, uint32_t& bad) {
  uint32_t four = 0;
  for (int d = 0; d < 4; d++) four |= uint32_t(digits[d]) << (8 * d);  // one load
  bad |= ((four + (128 - 3) * 0x01010101u) | four) & 0x80808080u;
  return four * 0x1b090301u >> 24;
}

// Packs a matrix; whole_word(r, g) returns the word of row r in word column g if the matrix has all
// its columns.
template <class WholeWord>
bool pack(const Digits& a, const Alphabet& alphabet, uint16_t* out, const WholeWord& whole_word) {
  const size_t padded = padded_rows(a.rows);
  const size_t count = blocks(a, alphabet.k), words = w16_words(a, alphabet.k);
  const size_t whole = a.columns / (W16::kBlocks * alphabet.k);
  const unsigned pad = padding_rank(alphabet);
  unsigned bad = 0;
  for (size_t first = 0; first < padded; first += W16::kStripRows) {
    const size_t height = std::min(W16::kStripRows, padded - first);
    // Tiles of 32 rows: each word column of a tile is one cache line of output.
    for (size_t r0 = 0; r0 < height; r0 += kRowUnit) {
      uint16_t* tile = out + first * words + r0;
      const size_t real = std::min(kRowUnit, a.rows - std::min(a.rows, first + r0));
      for (size_t g = 0; g < words; g++, tile += height) {
        for (size_t i = 0; i < real; i++) {
          const size_t r = first + r0 + i;
          unsigned word = 0;
          if (g < whole)
            word = whole_word(r, g);
          else
            for (size_t n = 0, j = 3 * g; n < W16::kBlocks; n++, j++)
              word |= (j < count ? rank<false>(a, alphabet, r, j, bad) : pad) << (5 * n);
          tile[i] = static_cast<uint16_t>(word);
        }
        std::fill(tile + real, tile + kRowUnit, static_cast<uint16_t>(pad | pad << 5 | pad << 10));
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

// Packs listed patterns of four ternary digits.
bool pack_fours(const Digits& a, const Alphabet& alphabet, uint16_t* out) {
  uint32_t bad = 0;
  unsigned not_listed = 0;
  const bool good = pack(a, alphabet, out, [&](size_t r, size_t g) {
    const uint8_t* digits = a.data + ptrdiff_t(r) * a.row_stride + 12 * g;
    unsigned word = 0;
    for (unsigned n = 0; n < W16::kBlocks; n++)
      word |= listed_rank(alphabet, number_of_four(digits + 4 * n, bad), not_listed) << (5 * n);
    return word;
  });
  return good && bad == 0 && not_listed == 0;
}

}  // namespace

bool pack_w16(const Digits& a, const Alphabet& alphabet, uint16_t* out) {
  // Fast paths for what the cost model chooses: the largest k of each base, and k = 4 listed.
  if (a.column_stride == 1 && alphabet.listed == nullptr) {
    if (alphabet.base == 3 && alphabet.k == 3) return pack_neighbors<3, 3>(a, alphabet, out);
    if (alphabet.base == 2 && alphabet.k == 5) return pack_neighbors<2, 5>(a, alphabet, out);
    if (alphabet.base == 4 && alphabet.k == 2) return pack_neighbors<4, 2>(a, alphabet, out);
    if (alphabet.base == 5 && alphabet.k == 2) return pack_neighbors<5, 2>(a, alphabet, out);
  }
  if (a.column_stride == 1 && alphabet.listed && alphabet.base == 3 && alphabet.k == 4)
    return pack_fours(a, alphabet, out);
  unsigned bad = 0;
  const bool good = pack(a, alphabet, out, [&](size_t r, size_t g) {
    unsigned word = 0;
    for (size_t n = 0; n < W16::kBlocks; n++)
      word |= rank<true>(a, alphabet, r, 3 * g + n, bad) << (5 * n);
    return word;
  });
  return good && bad == 0;
}

bool mark_patterns(const Digits& a, int base, int k, size_t stride, uint8_t* seen) {
  constexpr size_t kAtOnce = 16;  // column blocks: a vector of bytes, also with SSE2 and NEON
  const size_t run = k * stride;
  const uint8_t base8 = static_cast<uint8_t>(base);
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
      for (size_t j = 0; j < stride; j += kAtOnce) {
        uint8_t numbers[kAtOnce] = {};  // a bad digit may wrap it, but it stays an index of `seen`
        const size_t count = std::min(kAtOnce, stride - j);
        for (int p = 0; p < k; p++) {
          uint8_t digits[kAtOnce] = {};
          const size_t first = c + p * stride + j;
          if (a.column_stride == 1 && count == kAtOnce)
            std::memcpy(digits, a.data + ptrdiff_t(r) * a.row_stride + first, kAtOnce);
          else
            for (size_t i = 0; i < count; i++) digits[i] = a.at(r, first + i);
          for (size_t i = 0; i < kAtOnce; i++) {
            bad |= static_cast<uint8_t>(digits[i] >= base8);
            numbers[i] = static_cast<uint8_t>(numbers[i] * base8 + digits[i]);
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
      ranks[r] = static_cast<uint16_t>(whole ? pattern_number<true>(a, alphabet, r, j, bad)
                                             : pattern_number<false>(a, alphabet, r, j, bad));
    if (bad) return false;  // before ranks are used as indices
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
