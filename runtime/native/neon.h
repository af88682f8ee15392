// NEON helpers: what every aarch64 processor has. Internal linkage: each file that includes them
// compiles its own (table.h).
//
// Kernels state the instructions of their inner loop. Speed was not measured on a processor:
// docs/arm.md.
#pragma once
#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "prefetch.h"

namespace rsr {
namespace {

// Far enough ahead of a stream from memory; hardware prefetchers do most of it.
constexpr size_t kPrefetchAhead = 1024;

// Prefetches an index.
inline void prefetch_index(const void* p) {
  prefetch_line(static_cast<const char*>(p) + kPrefetchAhead);
}

// Four scales of rows, float16 or float32.
inline float32x4_t four_scales(const void* scales, bool is_half) {
  if (!is_half) return vld1q_f32(static_cast<const float*>(scales));
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(static_cast<const uint16_t*>(scales))));
}

// Pairwise: lanes 2 apart, then 1.
inline float sum(float32x4_t v) { return vpadds_f32(vadd_f32(vget_low_f32(v), vget_high_f32(v))); }

}  // namespace
}  // namespace rsr
