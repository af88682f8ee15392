// AVX-512: kLanes floats are one register. Of 32 registers, kRadix vectors take 16. A vector takes
// 12 operations for the four levels within it and 1 for each other level: 18 for a block of 1024.
#include "decoder/lanes_avx512.h"

namespace rsr {
namespace {

constexpr int kRadix = 16;

// a + other in the first of each pair, other - a in the second.
inline Lanes pairs(Lanes a, Lanes other, __mmask16 second) {
  return _mm512_mask_sub_ps(_mm512_add_ps(a, other), second, other, a);
}

// The butterflies of lanes 1, 2, 4 and 8 apart.
inline Lanes butterflies_within(Lanes a) {
  a = pairs(a, _mm512_permute_ps(a, 0b10110001), 0xaaaa);
  a = pairs(a, _mm512_permute_ps(a, 0b01001110), 0xcccc);
  a = pairs(a, _mm512_shuffle_f32x4(a, a, 0b10110001), 0xf0f0);
  return pairs(a, _mm512_shuffle_f32x4(a, a, 0b01001110), 0xff00);
}

}  // namespace
}  // namespace rsr

#include "rotation/hadamard.h"

namespace rsr {

void fill_hadamard_avx512(KernelTable& table) { table.hadamard = kHadamard; }

}  // namespace rsr
