// kLanes floats in four registers of NEON.
#pragma once
#include <cstring>

#include "neon.h"
#include "table.h"

namespace rsr {
namespace {

struct Lanes {
  float32x4_t q0, q1, q2, q3;
};

// Vectors of a tile of queries x vectors that fits the registers.
constexpr int kTileVectors = 1;

// op of each register of some Lanes.
template <class Op>
inline Lanes each(const Op& op, const Lanes& a) {
  return {op(a.q0), op(a.q1), op(a.q2), op(a.q3)};
}
template <class Op>
inline Lanes each(const Op& op, const Lanes& a, const Lanes& b) {
  return {op(a.q0, b.q0), op(a.q1, b.q1), op(a.q2, b.q2), op(a.q3, b.q3)};
}
template <class Op>
inline Lanes each(const Op& op, const Lanes& a, const Lanes& b, const Lanes& c) {
  return {op(a.q0, b.q0, c.q0), op(a.q1, b.q1, c.q1), op(a.q2, b.q2, c.q2), op(a.q3, b.q3, c.q3)};
}

inline Lanes broadcast(float x) {
  const float32x4_t four = vdupq_n_f32(x);
  return {four, four, four, four};
}
inline Lanes load(const float* p) {
  return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}
inline Lanes load(const uint16_t* p) {
  const float16x8_t low = vreinterpretq_f16_u16(vld1q_u16(p)),
                    high = vreinterpretq_f16_u16(vld1q_u16(p + 8));
  return {vcvt_f32_f16(vget_low_f16(low)), vcvt_high_f32_f16(low), vcvt_f32_f16(vget_low_f16(high)),
          vcvt_high_f32_f16(high)};
}
inline Lanes load(const BFloat16* p) {
  const uint16x8_t low = vld1q_u16(&p->bits), high = vld1q_u16(&p[8].bits);
  return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(low), 16)),
          vreinterpretq_f32_u32(vshll_high_n_u16(low, 16)),
          vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(high), 16)),
          vreinterpretq_f32_u32(vshll_high_n_u16(high, 16))};
}
inline Lanes load(const int8_t* p) {
  const int8x16_t bytes = vld1q_s8(p);
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_high_s8(bytes);
  return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_high_s16(low)),
          vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_high_s16(high))};
}
inline void store(float* p, Lanes a) {
  vst1q_f32(p, a.q0);
  vst1q_f32(p + 4, a.q1);
  vst1q_f32(p + 8, a.q2);
  vst1q_f32(p + 12, a.q3);
}
inline void store(uint16_t* p, Lanes a) {
  vst1q_u16(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(a.q0), a.q1)));
  vst1q_u16(p + 8, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(a.q2), a.q3)));
}

// The first n lanes; the others are `rest`, or not written.
inline Lanes load_part(const float* p, size_t n, float rest = 0.0f) {
  float all[kLanes];
  store(all, broadcast(rest));
  std::memcpy(all, p, n * sizeof(float));
  return load(all);
}
inline void store_part(float* p, Lanes a, size_t n) {
  float all[kLanes];
  store(all, a);
  std::memcpy(p, all, n * sizeof(float));
}

inline void prefetch(const char* p) { prefetch_into_l2(p); }

inline Lanes add(Lanes a, Lanes b) {
  return each([](auto x, auto y) { return vaddq_f32(x, y); }, a, b);
}
inline Lanes sub(Lanes a, Lanes b) {
  return each([](auto x, auto y) { return vsubq_f32(x, y); }, a, b);
}
inline Lanes mul(Lanes a, Lanes b) {
  return each([](auto x, auto y) { return vmulq_f32(x, y); }, a, b);
}
inline Lanes div(Lanes a, Lanes b) {
  return each([](auto x, auto y) { return vdivq_f32(x, y); }, a, b);
}
// a b + c
inline Lanes fma(Lanes a, Lanes b, Lanes c) {
  return each([](auto x, auto y, auto z) { return vfmaq_f32(z, x, y); }, a, b, c);
}
// b where a is NaN; fmax would be NaN
inline Lanes max(Lanes a, Lanes b) {
  return each([](auto x, auto y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }, a, b);
}
inline Lanes negative_abs(Lanes a) {
  return each([](auto x) { return vnegq_f32(vabsq_f32(x)); }, a);
}
// a where x has the sign bit, b elsewhere
inline Lanes where_negative(Lanes x, Lanes a, Lanes b) {
  return each(
      [](auto s, auto y, auto z) { return vbslq_f32(vcltzq_s32(vreinterpretq_s32_f32(s)), y, z); },
      x, a, b);
}
// 0 where x < limit, a elsewhere
inline Lanes zero_below(Lanes a, Lanes x, float limit) {
  return each(
      [=](auto y, auto z) {
        return vreinterpretq_f32_u32(
            vbicq_u32(vreinterpretq_u32_f32(y), vcltq_f32(z, vdupq_n_f32(limit))));
      },
      a, x);
}
// 2^(the low bits of a, as an integer), from -126 to 127
inline Lanes power_of_two(Lanes a) {
  return each(
      [](auto x) {
        return vreinterpretq_f32_u32(
            vaddq_u32(vshlq_n_u32(vreinterpretq_u32_f32(x), 23), vdupq_n_u32(0x3f800000)));
      },
      a);
}

// Pairwise: lanes 8 apart, then 4, 2 and 1.
inline float sum(Lanes a) { return sum(vaddq_f32(vaddq_f32(a.q0, a.q2), vaddq_f32(a.q1, a.q3))); }
inline float largest(Lanes a) {
  return vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(a.q0, a.q1), vmaxnmq_f32(a.q2, a.q3)));
}

// Magnitudes as integers, in the order of floats, NaN above infinity.
struct Magnitudes {
  int32x4_t v;
};
inline Magnitudes no_magnitudes() { return {vdupq_n_s32(0)}; }
inline Magnitudes larger(Magnitudes m, Lanes a) {
  const auto bits = [](float32x4_t x) { return vreinterpretq_s32_f32(vabsq_f32(x)); };
  return {vmaxq_s32(
      m.v, vmaxq_s32(vmaxq_s32(bits(a.q0), bits(a.q1)), vmaxq_s32(bits(a.q2), bits(a.q3))))};
}
inline float largest(Magnitudes m) {
  return vgetq_lane_f32(vreinterpretq_f32_s32(vdupq_n_s32(vmaxvq_s32(m.v))), 0);
}

// fcvtns rounds half to even.
inline int8x16_t to_i8(Lanes a) {
  const auto words = [](float32x4_t x, float32x4_t y) {
    return vqmovn_high_s32(vqmovn_s32(vcvtnq_s32_f32(x)), vcvtnq_s32_f32(y));
  };
  return vqmovn_high_s16(vqmovn_s16(words(a.q0, a.q1)), words(a.q2, a.q3));
}
inline void store_i8(int8_t* p, Lanes a) { vst1q_s8(p, to_i8(a)); }
inline void store_i8(int8_t* p, Lanes a, size_t n) {
  int8_t all[kLanes];
  store_i8(all, a);
  std::memcpy(p, all, n);
}

}  // namespace
}  // namespace rsr
