#include "activations.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rsr {
namespace {

// |x| <= 127 rounded up by the product, so adding and subtracting 1.5 * 2^23 rounds half to even in
// the default rounding mode, and unlike nearbyint() vectorises without SSE4.1.
inline float round_half_even(float x) {
  constexpr float kShift = 12582912.0f;
  return (x + kShift) - kShift;
}

}  // namespace

void quantize_i8(const float* x, size_t count, size_t n, int8_t* q, float* s) {
  for (size_t i = 0; i < count; i++, x += n, q += n) {
    float largest = 0;
    bool finite = true;
    for (size_t j = 0; j < n; j++) {
      const float magnitude = std::fabs(x[j]);
      finite &= magnitude <= std::numeric_limits<float>::max();
      largest = std::max(largest, magnitude);
    }
    if (!finite) {
      std::fill(q, q + n, int8_t(0));
      s[i] = std::numeric_limits<float>::quiet_NaN();
      continue;
    }
    s[i] = 127.0f * (1.0f / std::max(largest, 1e-5f));
    for (size_t j = 0; j < n; j++)
      q[j] = static_cast<int8_t>(std::min(127.0f, std::max(-128.0f, round_half_even(x[j] * s[i]))));
  }
}

}  // namespace rsr
