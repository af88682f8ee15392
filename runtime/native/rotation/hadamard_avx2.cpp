// AVX2: kLanes floats are two registers. Of 16 registers, kRadix vectors take 8. A vector takes 15
// operations for the four levels within it and 2 for each other level.
#include "decoder/lanes_avx2.h"

namespace rsr {
namespace {

constexpr int kRadix = 4;

// other + a in the first of each pair, other - a in the second, whose signs `second` flips.
inline __m256 pairs(__m256 a, __m256 other, __m256 second) {
  return _mm256_add_ps(other, _mm256_xor_ps(a, second));
}

// The butterflies of lanes 1, 2 and 4 apart.
inline __m256 butterflies_of_8(__m256 a) {
  const float m = -0.0f;
  a = pairs(a, _mm256_permute_ps(a, 0b10110001), _mm256_setr_ps(0, m, 0, m, 0, m, 0, m));
  a = pairs(a, _mm256_permute_ps(a, 0b01001110), _mm256_setr_ps(0, 0, m, m, 0, 0, m, m));
  return pairs(a, _mm256_permute2f128_ps(a, a, 1), _mm256_setr_ps(0, 0, 0, 0, m, m, m, m));
}

// And 8 apart.
inline Lanes butterflies_within(Lanes a) {
  const __m256 low = butterflies_of_8(a.low), high = butterflies_of_8(a.high);
  return {_mm256_add_ps(low, high), _mm256_sub_ps(low, high)};
}

}  // namespace
}  // namespace rsr

#include "rotation/hadamard.h"

namespace rsr {

void fill_hadamard_avx2(KernelTable& table) { table.hadamard = kHadamard; }

}  // namespace rsr
