// Segment sums of one vector on NEON, as in segments_scalar.cpp with the four lanes in one
// register.
//
// Per four rows 17.5 instructions where plain C++ has 20, and one store instead of four; per four
// segments 23 instead of 60. What else encoding permuted has stays plain C++: its batch compiles to
// NEON as it is, and NEON cannot scatter.
#include "neon.h"
#include "table.h"

namespace rsr {
namespace {

// Loads of a lane have no index register; those of the first lanes do.
template <class Index>
inline int32x4_t gather(const int32_t* v, const Index* sigma) {
  const int32x2_t ac = vld1_lane_s32(v + sigma[2], vld1_dup_s32(v + sigma[0]), 1);
  const int32x2_t bd = vld1_lane_s32(v + sigma[3], vld1_dup_s32(v + sigma[1]), 1);
  return vcombine_s32(vzip1_s32(ac, bd), vzip2_s32(ac, bd));
}

template <class Index>
void segment_sums(const int32_t* v, const Index* sigma, const Index* L, size_t patterns,
                  int32_t* scratch, int32_t* u) {
  const size_t rows = L[patterns];
  int32_t* sums = scratch + kSumLanes;
  int32x4_t sum = vdupq_n_s32(0);
  size_t i = 0;
  for (; i + 16 <= rows; i += 16) {
    prefetch_index(sigma + i);
    for (size_t j = i; j < i + 16; j += 4)
      vst1q_s32(sums + j, sum = vaddq_s32(sum, gather(v, sigma + j)));
  }
  for (; i < rows; i++)
    sums[i] = static_cast<int32_t>(uint32_t(sums[i - kSumLanes]) + uint32_t(v[sigma[i]]));

  int32x4_t before = vdupq_n_s32(0);
  const auto segment = [&](size_t s) {
    const int32x4_t through = vld1q_s32(sums + L[s + 1] - kSumLanes);
    const int32x4_t difference = vsubq_s32(through, before);
    before = through;
    return difference;
  };
  size_t s = 0;
  for (; s + 4 <= patterns; s += 4) {
    const int32x4_t a = segment(s), b = segment(s + 1), c = segment(s + 2), d = segment(s + 3);
    vst1q_s32(u + s, vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)));
  }
  for (; s < patterns; s++) u[s] = vaddvq_s32(segment(s));
}

}  // namespace

void fill_segments_neon(KernelTable& table) {
  table.permuted16.segment_sums = segment_sums<uint16_t>;
  table.permuted32.segment_sums = segment_sums<uint32_t>;
}

}  // namespace rsr
