// Segment sums on AVX2. Registers of 128 bits: adding up the lanes is the cost of a segment, and
// eight lanes cost more.
#include <immintrin.h>

#include <cstring>

#include "permuted/bin.h"
#include "permuted/segment_sums.h"
#include "table.h"

namespace rsr {
namespace {

constexpr size_t kPrefetchBytes = 8192;

struct Four {
  using Register = __m128i;
  static constexpr size_t kStep = 32;  // rows whose indices are prefetched at once

  static void prefetch(const void* sigma) {
    _mm_prefetch(static_cast<const char*>(sigma) + kPrefetchBytes, _MM_HINT_T1);
  }
  static __m128i zero() { return _mm_setzero_si128(); }
  static __m128i add(__m128i a, __m128i b) { return _mm_add_epi32(a, b); }
  static __m128i subtract(__m128i a, __m128i b) { return _mm_sub_epi32(a, b); }
  static __m128i load(const int32_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  static void store(int32_t* p, __m128i a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), a); }

  // Inserts from memory take 0.7 to 0.8 cycles per row, vpgatherdd 1.2 to 1.4 (Zen 4,
  // docs/lab-notes.md). One store of four sums replaces four: there is one store per cycle.
  static __m128i gather(const int32_t* v, size_t a, size_t b, size_t c, size_t d) {
    const __m128i ab = _mm_insert_epi32(_mm_cvtsi32_si128(v[a]), v[b], 1);
    return _mm_insert_epi32(_mm_insert_epi32(ab, v[c], 2), v[d], 3);
  }
  static __m128i gather(const int32_t* v, const uint16_t* sigma) {
    uint32_t ab, cd;  // two loads, not four
    std::memcpy(&ab, sigma, sizeof ab);
    std::memcpy(&cd, sigma + 2, sizeof cd);
    return gather(v, ab & 0xffff, ab >> 16, cd & 0xffff, cd >> 16);
  }
  static __m128i gather(const int32_t* v, const uint32_t* sigma) {
    return gather(v, sigma[0], sigma[1], sigma[2], sigma[3]);
  }

  // The sums of the lanes of a, b, c and d.
  static __m128i across(__m128i a, __m128i b, __m128i c, __m128i d) {
    const __m128i ab = _mm_add_epi32(_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
    const __m128i cd = _mm_add_epi32(_mm_unpacklo_epi32(c, d), _mm_unpackhi_epi32(c, d));
    return _mm_add_epi32(_mm_unpacklo_epi64(ab, cd), _mm_unpackhi_epi64(ab, cd));
  }
  static int32_t across(__m128i a) { return _mm_cvtsi128_si32(across(a, a, a, a)); }
};

template <class Index>
void segment_sums_batch(const int32_t* v, const Index* sigma, const Index* L, size_t patterns,
                        int32_t* u) {
  for (size_t s = 0; s < patterns; s++, u += kBatch) {
    __m256i a = _mm256_setzero_si256(), b = a;
    for (size_t i = L[s]; i < L[s + 1]; i++) {
      const __m256i* row = reinterpret_cast<const __m256i*>(v + sigma[i] * kBatch);
      a = _mm256_add_epi32(a, _mm256_loadu_si256(row));
      b = _mm256_add_epi32(b, _mm256_loadu_si256(row + 1));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(u), a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(u) + 1, b);
  }
}

}  // namespace

void fill_segments_avx2(KernelTable& table) {
  table.bin = {multiply_bin, multiply_bin_transposed};
  fill_segment_sums<Four>(table);
  table.permuted16.segment_sums_batch = segment_sums_batch<uint16_t>;
  table.permuted32.segment_sums_batch = segment_sums_batch<uint32_t>;
}

}  // namespace rsr
