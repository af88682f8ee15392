// Several int8 vectors at once, NEON with dot products, from panels (panels_neon.h): sdot
// multiplies the digits of 4 rows x 4 inputs by 4 inputs of a vector.
//
// A step of 16 rows and 4 vectors is 16 sdot for 5 loads. Of 32 registers, 16 are sums.
#include "batch/panels_neon.h"

namespace rsr {
namespace {

struct DotProducts {
  static constexpr size_t kStepInputs = 4;

  int32x4_t sums[kSetVectors][4];

  DotProducts() {
    for (auto& vector : sums)
      for (auto& four : vector) four = vdupq_n_s32(0);
  }

  void add_step(const int8_t* digits, const int8_t* x) {
    const int8x16_t inputs = vld1q_s8(x);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      const int8x16_t rows = vld1q_s8(digits + 16 * i);
      sums[0][i] = vdotq_laneq_s32(sums[0][i], rows, inputs, 0);
      sums[1][i] = vdotq_laneq_s32(sums[1][i], rows, inputs, 1);
      sums[2][i] = vdotq_laneq_s32(sums[2][i], rows, inputs, 2);
      sums[3][i] = vdotq_laneq_s32(sums[3][i], rows, inputs, 3);
    }
  }

  int32x4_t of(size_t v, size_t i) const { return sums[v][i]; }
};

}  // namespace

void fill_panels_neon_dotprod(KernelTable& table) { fill_panels<DotProducts>(table, 4); }

}  // namespace rsr
