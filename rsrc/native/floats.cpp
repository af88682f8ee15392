// Plain loops that compilers vectorize: without branches, and with flags and maxima as wide as an
// entry, so that no lane is widened.
#include "floats.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace rsr {
namespace {

template <class Bits>
constexpr Bits kSign = Bits(Bits(1) << (8 * sizeof(Bits) - 1));

template <class Bits>
Bits largest_magnitude(const Bits* row, size_t columns) {
  // A magnitude has no sign bit, so it fits the signed type; SSE2 has no unsigned 16-bit maximum.
  using Signed = std::make_signed_t<Bits>;
  Signed largest = 0;
  for (size_t c = 0; c < columns; c++)
    largest = std::max(largest, static_cast<Signed>(row[c] & Bits(~kSign<Bits>)));
  return static_cast<Bits>(largest);
}

inline float value(float x) { return x; }
inline float value(uint16_t bf16) {
  const uint32_t bits = uint32_t(bf16) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline float magnitude(float x) { return x < 0 ? -x : x; }

template <class T, class Digit>
void each_digit(const Rows<T>& a, uint8_t* out, const Digit& digit) {
  const size_t columns = a.columns;  // a copy: `out` may alias `a` for all the compiler knows
  for (size_t r = 0; r < a.rows; r++, out += columns) {
    const T* row = a[r];
    for (size_t c = 0; c < columns; c++) out[c] = static_cast<uint8_t>(digit(row[c]));
  }
}

}  // namespace

template <class Bits>
Scan scan(const Rows<Bits>& a, Bits* largest) {
  Scan found{a.rows, false, false, false, false};
  for (size_t r = 0; r < a.rows; r++) {
    const Bits* row = a[r];
    const Bits magnitude = largest[r] = largest_magnitude(row, a.columns);
    Bits negative = 0, zero = 0, positive = 0, negative_zero = 0, other = 0;
    for (size_t c = 0; c < a.columns; c++) {
      const Bits x = row[c], absolute = x & Bits(~kSign<Bits>);
      positive |= Bits(-(x == magnitude));
      negative |= Bits(-(x == Bits(magnitude | kSign<Bits>)));
      zero |= Bits(-(absolute == 0));
      negative_zero |= Bits(-(x == kSign<Bits>));
      other |= Bits(-(absolute != 0)) & Bits(-(absolute != magnitude));
    }
    if (other) {
      found.mixed = r;
      break;
    }
    found.negative |= magnitude && negative;
    found.positive |= magnitude && positive;
    found.zero |= zero != 0;
    found.negative_zero |= negative_zero != 0;
  }
  return found;
}

template <class Bits>
void sign_digits(const Rows<Bits>& a, int base, int lowest, uint8_t* out) {
  if (base == 3)
    each_digit(a, out,
               [](Bits x) { return 1 + (Bits(x - 1) < kSign<Bits> - 1) - (x > kSign<Bits>); });
  else if (lowest < 0)
    each_digit(a, out, [](Bits x) { return x < kSign<Bits>; });
  else
    each_digit(a, out, [](Bits x) { return Bits(x << 1) != 0; });
}

template <class Bits>
size_t negative_zeros(const Bits* a, size_t count, uint8_t* out) {
  constexpr size_t kStep = 32;  // `pending` holds at most 7 + 32 of its 64 bits
  uint64_t pending = 0;
  size_t held = 0, zeros = 0;
  for (size_t first = 0; first < count; first += kStep) {
    const size_t before = held;
    for (size_t i = first; i < std::min(count, first + kStep); i++) {
      pending |= uint64_t(a[i] == kSign<Bits>) << held;
      held += Bits(a[i] << 1) == 0;
    }
    zeros += held - before;
    std::memcpy(out, &pending, sizeof pending);
    out += held / 8;
    pending >>= held / 8 * 8;
    held %= 8;
  }
  return zeros;
}

template <class T>
double sum_of_magnitudes(const T* a, size_t count) {
  constexpr size_t kLanes = 8;  // independent sums hide the latency of an addition
  double sums[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (size_t n = 0; n < kLanes; n++) sums[n] += magnitude(value(a[i + n]));
  for (; i < count; i++) sums[0] += magnitude(value(a[i]));
  double total = 0;
  for (double sum : sums) total += sum;
  return total;
}

template <class T>
void rounded_digits(const Rows<T>& a, float s, uint8_t* out) {
  // Half to even rounds 0.5 to 0, so after clipping anything above 0.5 is 1.
  each_digit(a, out, [s](T entry) {
    const float x = value(entry) * s;
    return 1 + (x > 0.5f) - (x < -0.5f);
  });
}

bool join(const Rows<float>& a, size_t height, size_t width, float* out) {
  const size_t cells = a.columns / width + (a.columns % width != 0);
  for (size_t r = 0; r < a.rows; r++) {
    float* cell = out + r / height * cells;
    for (size_t first = 0; first < a.columns; first += width, cell++) {
      const float* x = a[r] + first;
      float joined = *cell;
      bool differ = false;
      for (size_t c = 0; c < std::min(width, a.columns - first); c++) {
        differ |= (x[c] != 0) & (joined != 0) & (x[c] != joined);
        joined = joined != 0 ? joined : x[c];
      }
      if (differ) return false;
      *cell = joined;
    }
  }
  return true;
}

template Scan scan(const Rows<uint16_t>&, uint16_t*);
template Scan scan(const Rows<uint32_t>&, uint32_t*);
template void sign_digits(const Rows<uint16_t>&, int, int, uint8_t*);
template void sign_digits(const Rows<uint32_t>&, int, int, uint8_t*);
template size_t negative_zeros(const uint16_t*, size_t, uint8_t*);
template size_t negative_zeros(const uint32_t*, size_t, uint8_t*);
template double sum_of_magnitudes(const uint16_t*, size_t);
template double sum_of_magnitudes(const float*, size_t);
template void rounded_digits(const Rows<uint16_t>&, float, uint8_t*);
template void rounded_digits(const Rows<float>&, float, uint8_t*);

}  // namespace rsr
