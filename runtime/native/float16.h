// float16 in plain C++. All is in an anonymous namespace: a kernel's file compiles its own.
#pragma once
#include <cstdint>
#include <cstring>

namespace rsr {
namespace {

inline float from_half(uint16_t half) {
  // With float32's exponent bias the exponent is 112 too low, which the product makes up for; it
  // also makes subnormal numbers normal. What had the highest exponent gets float32's.
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  uint32_t bits = magnitude;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  x *= 5.192296858534828e33f;  // 2^112
  std::memcpy(&bits, &x, sizeof bits);
  if (magnitude >= 0x0f800000) bits |= 0x7f800000;
  bits |= static_cast<uint32_t>(half & 0x8000) << 16;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Rounded half to even; too large is infinite.
inline uint16_t to_half(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00 | (bits >> 13 & 0x3ff));
  if (bits >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // from 65520
  if (bits < 0x38800000) {  // below 2^-14: a multiple of 2^-24, which adding 0.5 rounds to
    float magnitude;
    std::memcpy(&magnitude, &bits, sizeof magnitude);
    magnitude += 0.5f;
    std::memcpy(&bits, &magnitude, sizeof bits);
    return static_cast<uint16_t>(sign | (bits - 0x3f000000));
  }
  bits += 0xfff + (bits >> 13 & 1);
  return static_cast<uint16_t>(sign | ((bits - 0x38000000) >> 13));
}

}  // namespace
}  // namespace rsr
