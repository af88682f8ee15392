// GroupedTableProduct::add_scaled, NEON.
//
// Internal linkage: each file that includes this compiles its own (table.h).
#pragma once
#include "batch/grouped_tables.h"

namespace rsr {
namespace {

template <class Lanes, class Packing>
template <bool kWide>
inline void GroupedTableProduct<Lanes, Packing>::add_scaled(size_t rows, PerThread& scratch) {
  for (size_t r = 0; r < rows; r++)
    for (size_t i = 0; i < kLanes; i += 4) {
      const size_t at = r * kLanes + i;
      const int32x4_t sum =
          kWide ? vld1q_s32(scratch.wide + at) : vmovl_s16(vld1_s16(scratch.tile + at));
      if (kWide)
        vst1q_s32(scratch.wide + at, vdupq_n_s32(0));
      else
        vst1_s16(scratch.tile + at, vdup_n_s16(0));
      const float32x4_t factor = vmulq_n_f32(vld1q_f32(scratch.steps + i), scratch.scales[r]);
      vst1q_f32(scratch.sums + at,
                vfmaq_f32(vld1q_f32(scratch.sums + at), vcvtq_f32_s32(sum), factor));
    }
}

}  // namespace
}  // namespace rsr
