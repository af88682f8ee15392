// The scales of groups on NEON. Internal linkage: each file that includes this compiles its own
// (table.h).
#pragma once
#include "neon.h"
#include "table.h"

namespace rsr {
namespace {

// The factors of the sums of one group: scales of rows, times the step of the group.
class GroupFactors {
 public:
  GroupFactors(const GroupScales& scales, size_t group)
      : scales_(static_cast<const char*>(scales.data) +
                group * scales.stride * entry_bytes(scales)),
        is_half_(scales.is_half),
        step_(step_of(scales, 0, group)) {}

  // y[row] += sums * factors of four rows, counted from the first row wanted.
  void add_scaled(size_t row, float32x4_t sums, float* y) const {
    const float32x4_t scale = four_scales(scales_ + (is_half_ ? 2 : 4) * row, is_half_);
    vst1q_f32(y + row, vfmaq_f32(vld1q_f32(y + row), sums, vmulq_n_f32(scale, step_)));
  }

 private:
  const char* scales_;
  bool is_half_;
  float step_;
};

// Prefetches scales of `rows` rows, eight groups ahead: those of neighboring groups lie far apart.
inline void prefetch_scales(const GroupScales& scales, size_t group, size_t rows) {
  const size_t entry = entry_bytes(scales);
  const char* p = static_cast<const char*>(scales.data) + (group + 8) * scales.stride * entry;
  for (size_t i = 0; i < rows * entry; i += 64) prefetch_line(p + i);
}

}  // namespace
}  // namespace rsr
