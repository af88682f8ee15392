// float16 in plain C++.
#pragma once
#include <cstdint>
#include <cstring>

namespace rsr {
namespace {

// Exact. Exponent and mantissa move to their places in a float32, whose exponent is then 112 too
// low: a multiplication mends that, for subnormal numbers too.
inline float from_half(uint16_t half) {
  const uint32_t moved = uint32_t(half & 0x7fff) << 13;
  float value;
  std::memcpy(&value, &moved, sizeof value);
  value *= 0x1p112f;
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits |= (moved >= uint32_t(0x7c00) << 13 ? 0x7f800000 : 0) | uint32_t(half & 0x8000) << 16;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace
}  // namespace rsr
