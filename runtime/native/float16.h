// float16 in plain C++. Internal linkage: each file that includes this compiles its own (table.h).
#pragma once
#include <cstdint>
#include <cstring>

namespace rsr {
namespace {

inline float from_half(uint16_t half) {
  // Read with float32's bias, the exponent is 112 too low. The product corrects that and normalizes
  // subnormal numbers. Infinity and NaN get float32's highest exponent.
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

// Rounds half to even; overflows to infinity.
inline uint16_t to_half(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00 | (bits >> 13 & 0x3ff));
  if (bits >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // from 65520
  if (bits < 0x38800000) {  // below 2^-14: adding 0.5 rounds to a multiple of 2^-24
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
