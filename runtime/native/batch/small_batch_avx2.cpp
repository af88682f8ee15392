// A few int8 vectors at once, AVX2: the ranks are decoded once for a set of up to kSetVectors
// vectors. What remains for each vector is the lookups of vpshufb, 32 rows at a time.
//
// In both packings, as in vector/n4s1_avx2.h, a block's sum is cut into two digits of one byte, l
// and h, small enough that those of several blocks add up in a byte; one vpmaddubsw per 16 rows
// then joins them in int16.
//
// Tables are stored in the order in which they are read: sets of vectors, then column blocks, then
// the vectors of the set. A run of columns_per_widen columns keeps the tables of a set in L1 while
// kPassRows rows use them, and widens each int16 sum once.
#include "avx2.h"
#include "table.h"

namespace rsr {
namespace {

constexpr size_t kSetVectors = 4;
constexpr size_t kPassRows = 2048;

// sum += v, now: GCC would postpone the additions of several blocks until registers run out.
inline void add_now(__m256i& sum, __m256i v) {
  sum = _mm256_add_epi8(sum, v);
#if defined(__GNUC__)
  __asm__("" : "+x"(sum));
#endif
}

// Digits l and h of the sums of 16 patterns, 16 bytes each: sum = l + Base h.
template <int Base>
inline __m256i build_digits(const int8_t* x, const int16_t* patterns, int k) {
  __m256i sum = _mm256_setzero_si256();
  for (int d = 0; d < k; d++) {
    const __m256i digits = load(patterns + d * kPatterns);
    sum = _mm256_add_epi16(sum, _mm256_mullo_epi16(_mm256_set1_epi16(x[d]), digits));
  }
  const __m256i h = _mm256_mulhrs_epi16(sum, _mm256_set1_epi16((32768 + Base / 2) / Base));
  const __m256i l = _mm256_sub_epi16(sum, _mm256_mullo_epi16(h, _mm256_set1_epi16(Base)));
  return _mm256_permute4x64_epi64(_mm256_packs_epi16(l, h), 0xd8);
}

// Each of the following decodes the indices of 32 rows of a column, block by block, and looks up
// their digits. The digits of kColumns columns add up in bytes.

// Signed magnitudes. Where the sign is set, an XOR with -1 makes -1 - digit; the missing ones are
// added at the start. Additions and XOR run on every port that runs lookups, vpsignb does not.
// Bound: |sum| <= 384 makes |l| <= 12, |h| <= 15, eight of them <= 120; bytes may wrap on the way.
struct N4S1Digits : N4S1 {
  static constexpr size_t kRowBytes = 1;  // from one row to the next, within a vector
  static constexpr size_t kColumns = 1, kTableBytes = 32;
  static constexpr int kBase = 25;
  static constexpr bool kRowsInOrder = false;

  // 16 digits l by magnitude, then 16 digits h.
  static void build_table(const int8_t* x, const int16_t* patterns, int k, char* t) {
    store(t, build_digits<kBase>(x, patterns + kZeroRank, k));
  }

  struct Indices {
    __m256i signs, nibbles, magnitudes, negative;
  };

  // The initial value of both digits: the number of negative blocks.
  static __m256i start(const uint8_t* unit, size_t height) {
    const __m256i low = _mm256_set1_epi8(15), signs = load(unit + kSignVector * height);
    const __m256i ones = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                          0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    return _mm256_add_epi8(
        _mm256_shuffle_epi8(ones, _mm256_and_si256(signs, low)),
        _mm256_shuffle_epi8(ones, _mm256_and_si256(_mm256_srli_epi16(signs, 4), low)));
  }

  static Indices first(const uint8_t* unit, size_t height) {
    Indices i;
    i.signs = load(unit + kSignVector * height);
    return i;
  }

  static void next(Indices& i, const uint8_t* unit, size_t height, size_t block) {
    const __m256i low = _mm256_set1_epi8(15);
    if (block % 2 == 0) i.nibbles = load(unit + block / 2 * height);
    i.magnitudes = _mm256_and_si256(block % 2 ? _mm256_srli_epi16(i.nibbles, 4) : i.nibbles, low);
    if (block > 0) i.signs = _mm256_add_epi8(i.signs, i.signs);
    i.negative = _mm256_cmpgt_epi8(_mm256_setzero_si256(), i.signs);
  }

  static __m256i digits(const Indices& i, const char* t) {
    return _mm256_xor_si256(_mm256_shuffle_epi8(load_twice(t), i.magnitudes), i.negative);
  }
};

// Ranks of any patterns: entries 0-15 and 16-31 take one lookup each; the one that does not apply
// yields zero (vector/w16_avx2.cpp).
// Bound: |sum| <= 640 (k <= 5) makes |l| <= 20, |h| <= 16, six of them <= 120.
struct W16Digits : W16 {
  static constexpr size_t kRowBytes = 2, kColumns = 2, kTableBytes = 64;
  static constexpr int kBase = 41;
  static constexpr bool kRowsInOrder = true;

  // 16 digits l, 16 digits h; the same for entries 16-31.
  static void build_table(const int8_t* x, const int16_t* patterns, int k, char* t) {
    store(t, build_digits<kBase>(x, patterns, k));
    store(t + 32, build_digits<kBase>(x, patterns + 16, k));
  }

  static __m256i start(const uint8_t*, size_t) { return _mm256_setzero_si256(); }

  struct Indices {
    __m256i low_words, high_words, lower, upper;
  };

  static Indices first(const uint8_t* words, size_t) {
    Indices i;
    i.low_words = load(words);
    i.high_words = load(words + 32);
    return i;
  }

  static void next(Indices& i, const uint8_t*, size_t, size_t block) {
    const __m256i mask = _mm256_set1_epi16(31);
    const int shift = kRankBits * static_cast<int>(block);
    const __m256i ranks =
        _mm256_packus_epi16(_mm256_and_si256(_mm256_srli_epi16(i.low_words, shift), mask),
                            _mm256_and_si256(_mm256_srli_epi16(i.high_words, shift), mask));
    i.lower = _mm256_add_epi8(ranks, _mm256_set1_epi8(0x70));  // 16-31 sets bit 7
    i.upper = _mm256_sub_epi8(ranks, _mm256_set1_epi8(0x10));  // 0-15 sets bit 7
  }

  static __m256i digits(const Indices& i, const char* t) {
    return _mm256_or_si256(_mm256_shuffle_epi8(load_twice(t), i.lower),
                           _mm256_shuffle_epi8(load_twice(t + 32), i.upper));
  }
};

inline void add_widened(int32_t* y, bool is_first, __m256i v_i16x16, int half) {
  const __m128i eight =
      half ? _mm256_extracti128_si256(v_i16x16, 1) : _mm256_castsi256_si128(v_i16x16);
  const __m256i wide = _mm256_cvtepi16_epi32(eight);
  store(y, is_first ? wide : _mm256_add_epi32(wide, load(y)));
}

// Adds `columns` columns of 32 rows to the sums of T vectors; the first run stores instead.
// `ahead` is what will be read next: a run is too short for the hardware prefetcher to predict it.
// Bound: columns <= columns_per_widen, which an int16 sum takes.
template <class Packing, int T>
void lookup(const uint8_t* column, const uint8_t* ahead, size_t height, size_t columns,
            const char* t, bool is_first, int32_t* y, size_t stride) {
  const __m256i join = _mm256_set1_epi16(Packing::kBase << 8 | 1);
  const size_t column_bytes = height * Packing::kCellBytes;
  constexpr size_t kRowBytes = Packing::kRowBytes;
  __m256i low_i16x16[T], high_i16x16[T];
  for (int i = 0; i < T; i++) low_i16x16[i] = high_i16x16[i] = _mm256_setzero_si256();
  for (size_t c = 0; c < columns;) {
    __m256i l[T], h[T];
#pragma GCC unroll 4
    for (int i = 0; i < T; i++) l[i] = h[i] = Packing::start(column, height);
    const size_t stop = columns - c < Packing::kColumns ? columns : c + Packing::kColumns;
    for (; c < stop; c++, column += column_bytes, ahead += column_bytes) {
      for (size_t line = 0; line < Packing::kCellBytes; line += kRowBytes)
        _mm_prefetch(reinterpret_cast<const char*>(ahead + line * height), _MM_HINT_T1);
      typename Packing::Indices indices = Packing::first(column, height);
#pragma GCC unroll 8
      for (size_t block = 0; block < Packing::kBlocks; block++) {
        Packing::next(indices, column, height, block);
#pragma GCC unroll 4
        for (int i = 0; i < T; i++, t += Packing::kTableBytes) {
          add_now(l[i], Packing::digits(indices, t));
          add_now(h[i], Packing::digits(indices, t + 16));
        }
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < T; i++) {
      const __m256i low = _mm256_maddubs_epi16(join, _mm256_unpacklo_epi8(l[i], h[i]));
      const __m256i high = _mm256_maddubs_epi16(join, _mm256_unpackhi_epi8(l[i], h[i]));
      low_i16x16[i] = _mm256_add_epi16(low_i16x16[i], low);
      high_i16x16[i] = _mm256_add_epi16(high_i16x16[i], high);
    }
  }
  for (int i = 0; i < T; i++, y += stride) {
    add_widened(y, is_first, low_i16x16[i], 0);
    add_widened(y + (Packing::kRowsInOrder ? 8 : 16), is_first, low_i16x16[i], 1);
    add_widened(y + (Packing::kRowsInOrder ? 16 : 8), is_first, high_i16x16[i], 0);
    add_widened(y + 24, is_first, high_i16x16[i], 1);
  }
}

// The vectors of a pass are divided into sets of at most kSetVectors, as evenly as possible.
size_t sets_of(size_t count) { return (count + kSetVectors - 1) / kSetVectors; }
size_t set_begin(size_t set, size_t count) { return set * count / sets_of(count); }

template <class Packing>
struct SmallBatch {
  static constexpr size_t kColumnTableBytes = Packing::kBlocks * Packing::kTableBytes;

  static size_t shared_bytes(size_t columns, int, size_t count) {
    return count * columns * kColumnTableBytes;
  }
  static size_t per_thread_bytes(size_t, int, size_t) { return 0; }

  static void prepare(const int8_t* x, const int16_t* patterns, int k, size_t columns, size_t count,
                      size_t first, size_t last, void* shared) {
    const size_t blocks = columns * Packing::kBlocks;
    for (size_t set = 0; set < sets_of(count); set++) {
      const size_t begin = set_begin(set, count), end = set_begin(set + 1, count);
      for (size_t i = begin; i < end; i++) {
        if (i < first || i >= last) continue;
        const int8_t* from = x + i * blocks * k;
        char* t = static_cast<char*>(shared) + begin * columns * kColumnTableBytes +
                  (i - begin) * Packing::kTableBytes;
        for (size_t b = 0; b < blocks; b++, from += k, t += (end - begin) * Packing::kTableBytes)
          Packing::build_table(from, patterns, k, t);
      }
    }
  }

  static void multiply(const RankedRows& a, const int16_t*, int, const void* shared, size_t count,
                       void*, int32_t* y, size_t stride) {
    using Lookup = void (*)(const uint8_t*, const uint8_t*, size_t, size_t, const char*, bool,
                            int32_t*, size_t);
    constexpr Lookup kLookup[kSetVectors] = {lookup<Packing, 1>, lookup<Packing, 2>,
                                             lookup<Packing, 3>, lookup<Packing, 4>};
    const char* tables = static_cast<const char*>(shared);
    constexpr size_t kStripRows = Packing::kStripRows;
    const auto height_at = [&](size_t r) {
      return strip_height<Packing>(a.end - r / kStripRows * kStripRows);
    };
    const auto column_at = [&](size_t r, size_t c) {
      return a.index +
             (r / kStripRows * kStripRows * a.columns + c * height_at(r)) * Packing::kCellBytes +
             r % kStripRows * Packing::kRowBytes;
    };
    for (size_t top = a.first; top < a.last; top += kPassRows) {
      const size_t bottom = a.last - top < kPassRows ? a.last : top + kPassRows;
      for (size_t c = 0; c < a.columns; c += a.columns_per_widen) {
        const size_t left = a.columns - c;
        const size_t run = left < a.columns_per_widen ? left : a.columns_per_widen;
        for (size_t set = 0; set < sets_of(count); set++) {
          const size_t begin = set_begin(set, count), width = set_begin(set + 1, count) - begin;
          const char* t = tables + (begin * a.columns + c * width) * kColumnTableBytes;
          for (size_t r = top; r < bottom; r += 32) {
            const uint8_t* column = column_at(r, c);
            const size_t below = r + kStripRows;
            const uint8_t* ahead = set > 0               ? column
                                   : below < bottom      ? column_at(below, c)
                                   : c + run < a.columns ? column_at(top, c + run)
                                                         : column;
            kLookup[width - 1](column, ahead, height_at(r), run, t, c == 0,
                               y + begin * stride + (r - a.first), stride);
          }
        }
      }
    }
  }

  static constexpr BatchKernel<int8_t, int16_t, int32_t> kernel(size_t min_vectors) {
    return {min_vectors, 16, shared_bytes, per_thread_bytes, prepare, multiply};
  }
};

}  // namespace

void fill_small_batch_avx2(KernelTable& table, Isa isa) {
  // AVX-512 looks up single vectors faster than this a few.
  if (isa >= Isa::avx512) return;
  table.w16_i8.small_batch = SmallBatch<W16Digits>::kernel(2);
  table.n4s1_i8.small_batch = SmallBatch<N4S1Digits>::kernel(2);
}

}  // namespace rsr
