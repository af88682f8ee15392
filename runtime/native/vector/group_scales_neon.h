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
      : scales_(scales_at(scales, group, 0)),
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
  const char* p = scales_at(scales, group + 8, 0);
  for (size_t i = 0; i < rows * entry_bytes(scales); i += 64) prefetch_line(p + i);
}

// What float lookups call with the sums of a run and four rows: y[row] += sums. y begins as zeros.
class AddSums {
 public:
  AddSums(const RankedRows& rows, float* y) : y_(y) {
    for (size_t r = 0; r < rows.last - rows.first; r++) y[r] = 0;
  }

  void operator()(size_t, size_t row, float32x4_t sums) const {
    vst1q_f32(y_ + row, vaddq_f32(vld1q_f32(y_ + row), sums));
  }

 private:
  float* y_;
};

// The same with groups: y[row] += sums * factor of the group and row.
class AddScaledSums {
 public:
  AddScaledSums(const RankedRows& rows, const GroupScales& scales, float* y)
      : scales_(scales), count_(rows.last - rows.first), y_(y) {
    for (size_t r = 0; r < count_; r++) y[r] = 0;
  }

  void operator()(size_t group, size_t row, float32x4_t sums) const {
    if (row == 0) prefetch_scales(scales_, group, count_);
    GroupFactors(scales_, group).add_scaled(row, sums, y_);
  }

 private:
  const GroupScales& scales_;
  size_t count_;
  float* y_;
};

}  // namespace
}  // namespace rsr
