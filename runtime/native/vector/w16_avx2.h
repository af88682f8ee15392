// Packing w16 on AVX2: lookups of 32 bytes in tables of 32 entries.
//
// vpshufb looks up 16 entries: entries 0-15 and 16-31 take one lookup each, with the indices moved
// so that the lookup that does not apply yields zero (a set bit 7), and an OR joins them. Of an
// index with few patterns, such as two digits of four values each, entries 16-31 are zero.
//
// Internal linkage: each file that includes this compiles its own (table.h).
#pragma once
#include "avx2.h"
#include "table.h"

namespace rsr {
namespace {

template <bool HasFewPatterns>
class Lookup {
 public:
  // The ranks of 32 rows: the low five bits of words, of rows 0-15 and of rows 16-31.
  Lookup(__m256i first_words, __m256i second_words) {
    const __m256i five = _mm256_set1_epi16(31);
    const __m256i ranks = _mm256_packus_epi16(_mm256_and_si256(first_words, five),
                                              _mm256_and_si256(second_words, five));
    lower_ = _mm256_add_epi8(ranks, _mm256_set1_epi8(0x70));
    upper_ = _mm256_sub_epi8(ranks, _mm256_set1_epi8(0x10));
  }

  // The entries of a table of 32 bytes.
  __m256i operator()(const char* t) const {
    const __m256i lower = _mm256_shuffle_epi8(load_twice(t), lower_);
    if constexpr (HasFewPatterns) return lower;
    return _mm256_or_si256(lower, _mm256_shuffle_epi8(load_twice(t + 16), upper_));
  }

 private:
  __m256i lower_, upper_;
};

// Calls body with whether an index has few patterns, as a constant.
template <class Body>
inline void with_few_patterns(const RankedRows& rows, const Body& body) {
  rows.has_few_patterns ? body(std::true_type()) : body(std::false_type());
}

}  // namespace
}  // namespace rsr
