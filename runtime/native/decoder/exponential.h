// The exponential function in kLanes lanes. Included after the Lanes of an instruction set.
#pragma once

namespace rsr {
namespace {

// e^x for x <= 0: 0 below ln 2^-126, NaN for NaN, otherwise within 2 ulp.
//
// x = n ln 2 + r, |r| <= ln 2 / 2. Adding 1.5 * 2^23 rounds to n, which is then in the low bits.
// The first part of ln 2 has 15 bits, so n times it is exact. e^r is 1 + r + r^2 p(r), with p a
// Chebyshev fit of degree 4, off by at most 8e-9.
inline Lanes exp_of_negative(Lanes x) {
  constexpr float kShift = 12582912.0f, kLowest = -87.33654f;
  const Lanes shift = broadcast(kShift);
  const Lanes shifted = fma(x, broadcast(1.44269504f), shift);
  const Lanes n = sub(shifted, shift);
  Lanes r = fma(n, broadcast(-0x1.62e4p-1f), x);
  r = fma(n, broadcast(-0x1.7f7d1cp-20f), r);
  Lanes p = broadcast(0x1.6d117cp-10f);
  p = fma(p, r, broadcast(0x1.120be2p-7f));
  p = fma(p, r, broadcast(0x1.555518p-5f));
  p = fma(p, r, broadcast(0x1.5554dcp-3f));
  p = fma(p, r, broadcast(0.5f));
  p = fma(mul(r, r), p, r);
  p = add(p, broadcast(1.0f));
  return zero_below(mul(p, power_of_two(shifted)), x, kLowest);
}

}  // namespace
}  // namespace rsr
