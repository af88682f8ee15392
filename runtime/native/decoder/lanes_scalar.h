// kLanes floats in plain C++, and the operations that kernels on lanes need.
#pragma once
#include <cmath>
#include <cstring>

#include "float16.h"
#include "table.h"

namespace rsr {
namespace {

struct Lanes {
  float v[kLanes];
};

// Vectors of a tile of queries x vectors that fits the registers.
constexpr int kTileVectors = 1;

template <class Op>
inline Lanes each(const Op& op) {
  Lanes out;
  for (size_t i = 0; i < kLanes; i++) out.v[i] = op(i);
  return out;
}

inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float of_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline Lanes broadcast(float x) {
  return each([&](size_t) { return x; });
}

inline Lanes load(const float* p) {
  return each([&](size_t i) { return p[i]; });
}
inline Lanes load(const uint16_t* p) {
  return each([&](size_t i) { return from_half(p[i]); });
}
inline Lanes load(const BFloat16* p) {
  return each([&](size_t i) { return of_bits(uint32_t{p[i].bits} << 16); });
}
inline Lanes load(const int8_t* p) {
  return each([&](size_t i) { return static_cast<float>(p[i]); });
}
inline void store(float* p, Lanes a) { std::memcpy(p, a.v, sizeof a.v); }
inline void store(uint16_t* p, Lanes a) {
  for (size_t i = 0; i < kLanes; i++) p[i] = to_half(a.v[i]);
}

// The first n lanes; the others are `rest`, or not written.
inline Lanes load_part(const float* p, size_t n, float rest = 0.0f) {
  return each([&](size_t i) { return i < n ? p[i] : rest; });
}
inline void store_part(float* p, Lanes a, size_t n) {
  for (size_t i = 0; i < n; i++) p[i] = a.v[i];
}

inline void prefetch(const char*) {}

inline Lanes add(Lanes a, Lanes b) {
  return each([&](size_t i) { return a.v[i] + b.v[i]; });
}
inline Lanes sub(Lanes a, Lanes b) {
  return each([&](size_t i) { return a.v[i] - b.v[i]; });
}
inline Lanes mul(Lanes a, Lanes b) {
  return each([&](size_t i) { return a.v[i] * b.v[i]; });
}
inline Lanes div(Lanes a, Lanes b) {
  return each([&](size_t i) { return a.v[i] / b.v[i]; });
}
// a b + c
inline Lanes fma(Lanes a, Lanes b, Lanes c) {
  return each([&](size_t i) { return a.v[i] * b.v[i] + c.v[i]; });
}
// b where a is NaN
inline Lanes max(Lanes a, Lanes b) {
  return each([&](size_t i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Lanes negative_abs(Lanes a) {
  return each([&](size_t i) { return of_bits(bits_of(a.v[i]) | 0x80000000u); });
}
// a where x has the sign bit, b elsewhere
inline Lanes where_negative(Lanes x, Lanes a, Lanes b) {
  return each([&](size_t i) { return bits_of(x.v[i]) >> 31 ? a.v[i] : b.v[i]; });
}
// 0 where x < limit, a elsewhere
inline Lanes zero_below(Lanes a, Lanes x, float limit) {
  return each([&](size_t i) { return x.v[i] < limit ? 0.0f : a.v[i]; });
}
// 2^(the low bits of a, as an integer), from -126 to 127
inline Lanes power_of_two(Lanes a) {
  return each([&](size_t i) { return of_bits((bits_of(a.v[i]) << 23) + 0x3f800000u); });
}

// Pairwise: lanes 8 apart, then 4, 2 and 1.
inline float sum(Lanes a) {
  for (size_t half = kLanes / 2; half > 0; half /= 2)
    for (size_t i = 0; i < half; i++) a.v[i] += a.v[i + half];
  return a.v[0];
}
inline float largest(Lanes a) {
  for (size_t i = 1; i < kLanes; i++)
    if (a.v[i] > a.v[0]) a.v[0] = a.v[i];
  return a.v[0];
}

// Magnitudes as integers: the bits of floats, which are in the order of their values, with infinity
// above all numbers and NaN above infinity.
struct Magnitudes {
  int32_t v[kLanes];
};
inline Magnitudes no_magnitudes() { return {}; }
inline Magnitudes larger(Magnitudes m, Lanes a) {
  for (size_t i = 0; i < kLanes; i++) {
    const int32_t bits = static_cast<int32_t>(bits_of(a.v[i]) & 0x7fffffffu);
    m.v[i] = bits > m.v[i] ? bits : m.v[i];
  }
  return m;
}
inline float largest(Magnitudes m) {
  for (size_t i = 1; i < kLanes; i++)
    if (m.v[i] > m.v[0]) m.v[0] = m.v[i];
  return of_bits(static_cast<uint32_t>(m.v[0]));
}

// Rounds half to even: adding and subtracting 1.5 * 2^23 does in the default rounding mode. Bound:
// |a| < 128 after rounding.
inline void store_i8(int8_t* p, Lanes a, size_t n = kLanes) {
  constexpr float kShift = 12582912.0f;
  for (size_t i = 0; i < n; i++) p[i] = static_cast<int8_t>((a.v[i] + kShift) - kShift);
}

}  // namespace
}  // namespace rsr
