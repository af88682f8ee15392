// Segment sums on AVX2, as in segments_scalar.cpp with the four lanes in one register. Registers of
// 128 bits: adding up the lanes is the cost of a segment, and eight lanes cost more.
#include <immintrin.h>

#include <cstring>

#include "permuted/bin.h"
#include "table.h"

namespace rsr {
namespace {

constexpr size_t kPrefetchBytes = 8192;

inline __m128i load(const int32_t* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}

inline void store(int32_t* p, __m128i a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), a); }

// Inserts from memory take 0.7 to 0.8 cycles per row, vpgatherdd 1.2 to 1.4 (Zen 4,
// docs/lab-notes.md). One store of four sums replaces four: there is one store per cycle.
inline __m128i gather(const int32_t* v, size_t a, size_t b, size_t c, size_t d) {
  const __m128i ab = _mm_insert_epi32(_mm_cvtsi32_si128(v[a]), v[b], 1);
  return _mm_insert_epi32(_mm_insert_epi32(ab, v[c], 2), v[d], 3);
}

inline __m128i gather(const int32_t* v, const uint16_t* sigma) {
  uint32_t ab, cd;  // two loads, not four
  std::memcpy(&ab, sigma, sizeof ab);
  std::memcpy(&cd, sigma + 2, sizeof cd);
  return gather(v, ab & 0xffff, ab >> 16, cd & 0xffff, cd >> 16);
}

inline __m128i gather(const int32_t* v, const uint32_t* sigma) {
  return gather(v, sigma[0], sigma[1], sigma[2], sigma[3]);
}

// The sums of the lanes of a, b, c and d.
inline __m128i across(__m128i a, __m128i b, __m128i c, __m128i d) {
  const __m128i ab = _mm_add_epi32(_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
  const __m128i cd = _mm_add_epi32(_mm_unpacklo_epi32(c, d), _mm_unpackhi_epi32(c, d));
  return _mm_add_epi32(_mm_unpacklo_epi64(ab, cd), _mm_unpackhi_epi64(ab, cd));
}

template <class Index>
void segment_sums(const int32_t* v, const Index* sigma, const Index* L, size_t patterns,
                  int32_t* scratch, int32_t* u) {
  const size_t rows = L[patterns];
  int32_t* sums = scratch + kSumLanes;
  __m128i sum = _mm_setzero_si128();
  size_t i = 0;
  for (; i + 32 <= rows; i += 32) {
    _mm_prefetch(reinterpret_cast<const char*>(sigma + i) + kPrefetchBytes, _MM_HINT_T1);
    for (size_t j = i; j < i + 32; j += 4)
      store(sums + j, sum = _mm_add_epi32(sum, gather(v, sigma + j)));
  }
  for (; i < rows; i++)
    sums[i] = static_cast<int32_t>(uint32_t(sums[i - kSumLanes]) + uint32_t(v[sigma[i]]));

  __m128i before = _mm_setzero_si128();
  const auto segment = [&](size_t s) {
    const __m128i through = load(sums + L[s + 1] - kSumLanes);
    const __m128i difference = _mm_sub_epi32(through, before);
    before = through;
    return difference;
  };
  size_t s = 0;
  for (; s + 4 <= patterns; s += 4) {
    const __m128i a = segment(s), b = segment(s + 1), c = segment(s + 2), d = segment(s + 3);
    store(u + s, across(a, b, c, d));
  }
  for (; s < patterns; s++) {
    const __m128i a = segment(s);
    u[s] = _mm_cvtsi128_si32(across(a, a, a, a));
  }
}

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
  table.permuted16.segment_sums = segment_sums<uint16_t>;
  table.permuted32.segment_sums = segment_sums<uint32_t>;
  table.permuted16.segment_sums_batch = segment_sums_batch<uint16_t>;
  table.permuted32.segment_sums_batch = segment_sums_batch<uint32_t>;
}

}  // namespace rsr
