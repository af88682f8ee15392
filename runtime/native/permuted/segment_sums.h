// Segment sums of one vector, as in segments_scalar.cpp with the four lanes in one register.
//
// Internal linkage: each file that includes this compiles its own (table.h). It defines `Four`, the
// arithmetic of a register of four int32.
#pragma once
#include "table.h"

namespace rsr {
namespace {

template <class Four, class Index>
void segment_sums(const int32_t* v, const Index* sigma, const Index* L, size_t patterns,
                  int32_t* scratch, int32_t* u) {
  using Register = typename Four::Register;
  const size_t rows = L[patterns];
  int32_t* sums = scratch + kSumLanes;
  Register sum = Four::zero();
  size_t i = 0;
  for (; i + Four::kStep <= rows; i += Four::kStep) {
    Four::prefetch(sigma + i);
    for (size_t j = i; j < i + Four::kStep; j += 4)
      Four::store(sums + j, sum = Four::add(sum, Four::gather(v, sigma + j)));
  }
  for (; i < rows; i++)
    sums[i] = static_cast<int32_t>(uint32_t(sums[i - kSumLanes]) + uint32_t(v[sigma[i]]));

  Register before = Four::zero();
  const auto segment = [&](size_t s) {
    const Register through = Four::load(sums + L[s + 1] - kSumLanes);
    const Register difference = Four::subtract(through, before);
    before = through;
    return difference;
  };
  size_t s = 0;
  for (; s + 4 <= patterns; s += 4) {
    const Register a = segment(s), b = segment(s + 1), c = segment(s + 2), d = segment(s + 3);
    Four::store(u + s, Four::across(a, b, c, d));
  }
  for (; s < patterns; s++) u[s] = Four::across(segment(s));
}

template <class Four>
void fill_segment_sums(KernelTable& table) {
  table.permuted16.segment_sums = segment_sums<Four, uint16_t>;
  table.permuted32.segment_sums = segment_sums<Four, uint32_t>;
}

}  // namespace
}  // namespace rsr
