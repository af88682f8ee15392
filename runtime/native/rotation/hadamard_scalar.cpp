// Plain C++.
#include "decoder/lanes_scalar.h"

namespace rsr {
namespace {

constexpr int kRadix = 4;

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
