// Plain C++.
#include "table.h"

namespace rsr {
namespace {

struct Lanes {
  float v[kLanes];
};

constexpr int kRadix = 4;

template <class Op>
inline Lanes each(const Op& op) {
  Lanes out;
  for (size_t i = 0; i < kLanes; i++) out.v[i] = op(i);
  return out;
}

inline Lanes load(const float* p) {
  return each([&](size_t i) { return p[i]; });
}
inline void store(float* p, Lanes a) {
  for (size_t i = 0; i < kLanes; i++) p[i] = a.v[i];
}
inline Lanes add(Lanes a, Lanes b) {
  return each([&](size_t i) { return a.v[i] + b.v[i]; });
}
inline Lanes sub(Lanes a, Lanes b) {
  return each([&](size_t i) { return a.v[i] - b.v[i]; });
}
inline Lanes mul(Lanes a, Lanes b) {
  return each([&](size_t i) { return a.v[i] * b.v[i]; });
}

// The butterflies of lanes 1, 2, 4 and 8 apart.
inline Lanes butterflies_within(Lanes a) {
  for (size_t h = 1; h < kLanes; h *= 2)
    a = each([&](size_t i) { return i & h ? a.v[i - h] - a.v[i] : a.v[i] + a.v[i + h]; });
  return a;
}

}  // namespace
}  // namespace rsr

#include "rotation/hadamard.h"

namespace rsr {

void fill_hadamard_scalar(KernelTable& table) { table.hadamard = kHadamard; }

}  // namespace rsr
