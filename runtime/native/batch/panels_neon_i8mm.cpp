// Several int8 vectors at once, NEON with matrix products, from panels (panels_neon.h): smmla
// multiplies the digits of 2 rows x 8 inputs by 8 inputs of 2 vectors.
//
// A step of 16 rows and 4 vectors is 16 smmla for 10 loads. Of 32 registers, 16 are sums.
#include "batch/panels_neon.h"

namespace rsr {
namespace {

struct MatrixProducts {
  static constexpr size_t kStepInputs = 8;

  // Of two vectors and two rows: the sums of the first row, then those of the second.
  int32x4_t sums[kSetVectors / 2][kPanelRows / 2];

  MatrixProducts() {
    for (auto& pair : sums)
      for (auto& four : pair) four = vdupq_n_s32(0);
  }

  void add_step(const int8_t* digits, const int8_t* x) {
    const int8x16_t first = vld1q_s8(x), second = vld1q_s8(x + 16);
#pragma GCC unroll 8
    for (size_t i = 0; i < kPanelRows / 2; i++) {
      const int8x16_t rows = vld1q_s8(digits + 16 * i);
      sums[0][i] = vmmlaq_s32(sums[0][i], rows, first);
      sums[1][i] = vmmlaq_s32(sums[1][i], rows, second);
    }
  }

  int32x4_t of(size_t v, size_t i) const {
    const int32x4_t a = sums[v / 2][2 * i], b = sums[v / 2][2 * i + 1];
    return v % 2 ? vuzp2q_s32(a, b) : vuzp1q_s32(a, b);
  }
};

}  // namespace

void fill_panels_neon_i8mm(KernelTable& table) { fill_panels<MatrixProducts>(table, 3); }

}  // namespace rsr
