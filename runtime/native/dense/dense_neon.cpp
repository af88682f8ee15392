// NEON: 8 floats in two registers, or 16 int8, at a time.
//
// Per 8 weights and V = 1: float32 2 loads and 2 fmla; bfloat16 1 load, shll, shll2, 2 fmla;
// float16 1 load, fcvtl, fcvtl2, 2 fmla. bfdot would round products of bfloat16 inputs. Per 16
// int8: smull, smull2 and 2 sadalp, which adds pairs of products to int32 sums: smlal2 would add
// two products in int16, which 2 * 128 * 128 exceeds.
#include <arm_neon.h>

#include <cstring>

#include "dense/row_kernels.h"

namespace rsr {
namespace {

// The first bytes of a vector; the others are zero.
template <size_t kBytes>
struct Padded {
  char bytes[kBytes] = {};
  Padded(const void* p, size_t count) { std::memcpy(bytes, p, count); }
};

struct Eight {
  float32x4_t low, high;
};

uint16x8_t load_halves(const void* p) {
  return vreinterpretq_u16_u8(vld1q_u8(static_cast<const uint8_t*>(p)));
}

struct F32 {
  static constexpr size_t kBytes = 4;
  static Eight load(const void* p) {
    const uint8_t* bytes = static_cast<const uint8_t*>(p);
    return {vreinterpretq_f32_u8(vld1q_u8(bytes)), vreinterpretq_f32_u8(vld1q_u8(bytes + 16))};
  }
};

struct BF16 {
  static constexpr size_t kBytes = 2;
  static Eight load(const void* p) {
    const uint16x8_t w = load_halves(p);
    return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(w), 16)),
            vreinterpretq_f32_u32(vshll_high_n_u16(w, 16))};
  }
};

struct F16 {
  static constexpr size_t kBytes = 2;
  static Eight load(const void* p) {
    const float16x8_t w = vreinterpretq_f16_u16(load_halves(p));
    return {vcvt_f32_f16(vget_low_f16(w)), vcvt_high_f32_f16(w)};
  }
};

template <class Type>
struct Float : FloatSums {
  static constexpr size_t kWeightBytes = Type::kBytes, kLanes = 8;
  // 24 registers of sums with kRows x kVectors.
  static constexpr int kRowsAlone = 8, kRows = 3, kVectors = 4;
  using Sum = Eight;

  static Sum start(const float*, size_t) { return {vdupq_n_f32(0), vdupq_n_f32(0)}; }
  static Eight weights(const char* w, size_t count) {
    if (count == kLanes) return Type::load(w);
    return Type::load(Padded<kLanes * kWeightBytes>(w, count * kWeightBytes).bytes);
  }
  static Eight inputs(const float* x, size_t count) {
    if (count == kLanes) return F32::load(x);
    return F32::load(Padded<kLanes * sizeof(float)>(x, count * sizeof(float)).bytes);
  }
  static Sum add(Sum sum, Eight w, Eight x) {
    return {vfmaq_f32(sum.low, w.low, x.low), vfmaq_f32(sum.high, w.high, x.high)};
  }
  static float total(Sum sum) { return vaddvq_f32(vaddq_f32(sum.low, sum.high)); }
};

struct I8 : QuantizedSums {
  static constexpr size_t kLanes = 16;
  static constexpr int kRowsAlone = 8, kRows = 4, kVectors = 4;
  using Sum = int32x4_t;

  static Sum start(const int8_t*, size_t) { return vdupq_n_s32(0); }
  static int8x16_t weights(const void* w, size_t count) {
    if (count == kLanes) return vld1q_s8(static_cast<const int8_t*>(w));
    return vreinterpretq_s8_u8(
        vld1q_u8(reinterpret_cast<const uint8_t*>(Padded<kLanes>(w, count).bytes)));
  }
  static int8x16_t inputs(const int8_t* x, size_t count) { return weights(x, count); }
  static Sum add(Sum sum, int8x16_t w, int8x16_t x) {
    sum = vpadalq_s16(sum, vmull_s8(vget_low_s8(w), vget_low_s8(x)));
    return vpadalq_s16(sum, vmull_high_s8(w, x));
  }
  static int32_t total(Sum sum) { return vaddvq_s32(sum); }
};

}  // namespace

void fill_dense_neon(KernelTable& table) {
  table.dense = kDense<Float<F32>, Float<BF16>, Float<F16>, I8>;
}

}  // namespace rsr
