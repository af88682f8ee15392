// NEON with dot products: sdot multiplies 16 int8 and adds the products by fours.
#include <arm_neon.h>

#include <cstring>

#include "dense/row_kernels.h"

namespace rsr {
namespace {

struct I8 : QuantizedSums {
  static constexpr size_t kLanes = 16;
  static constexpr int kRowsAlone = 8, kRows = 4, kVectors = 5;
  using Sum = int32x4_t;

  static Sum start(const int8_t*, size_t) { return vdupq_n_s32(0); }
  static int8x16_t weights(const void* w, size_t count) {
    if (count == kLanes) return vld1q_s8(static_cast<const int8_t*>(w));
    int8_t padded[kLanes] = {};
    std::memcpy(padded, w, count);
    return vld1q_s8(padded);
  }
  static int8x16_t inputs(const int8_t* x, size_t count) { return weights(x, count); }
  static Sum add(Sum sum, int8x16_t w, int8x16_t x) { return vdotq_s32(sum, w, x); }
  static int32_t total(Sum sum) { return vaddvq_s32(sum); }
};

}  // namespace

void fill_dense_neon_dotprod(KernelTable& table) { table.dense.i8 = multiply_dense_rows<I8>; }

}  // namespace rsr
