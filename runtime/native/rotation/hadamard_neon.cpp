// NEON: kLanes floats are four registers. Of 32 registers, kRadix vectors take 16. A vector takes
// 32 operations for the four levels within it and 4 for each other level.
#include "decoder/lanes_neon.h"

namespace rsr {
namespace {

constexpr int kRadix = 4;

// other + a in the first of each pair, other - a in the second, whose signs `second` flips.
inline float32x4_t pairs(float32x4_t a, float32x4_t other, uint32x4_t second) {
  return vaddq_f32(other, vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(a), second)));
}

// The butterflies of lanes 1 and 2 apart.
inline float32x4_t butterflies_of_4(float32x4_t a) {
  constexpr uint32_t kSigns[8] = {0, 0x80000000, 0, 0x80000000, 0, 0, 0x80000000, 0x80000000};
  a = pairs(a, vrev64q_f32(a), vld1q_u32(kSigns));
  return pairs(a, vextq_f32(a, a, 2), vld1q_u32(kSigns + 4));
}

// And 4 and 8 apart.
inline Lanes butterflies_within(Lanes a) {
  a = each(butterflies_of_4, a);
  a = {vaddq_f32(a.q0, a.q1), vsubq_f32(a.q0, a.q1), vaddq_f32(a.q2, a.q3), vsubq_f32(a.q2, a.q3)};
  return {vaddq_f32(a.q0, a.q2), vaddq_f32(a.q1, a.q3), vsubq_f32(a.q0, a.q2),
          vsubq_f32(a.q1, a.q3)};
}

}  // namespace
}  // namespace rsr

#include "rotation/hadamard.h"

namespace rsr {

void fill_hadamard_neon(KernelTable& table) { table.hadamard = kHadamard; }

}  // namespace rsr
