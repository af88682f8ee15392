// The scales of groups on AVX2. Internal linkage: each file that includes this compiles its own
// (table.h).
#pragma once
#include "avx2.h"
#include "table.h"

namespace rsr {
namespace {

// The factors of the sums of one group: scales of rows, times the step of the group.
class GroupFactors {
 public:
  GroupFactors(const GroupScales& scales, size_t group)
      : scales_(scales_at(scales, group, 0)),
        is_half_(scales.is_half),
        step_(_mm256_set1_ps(step_of(scales, 0, group))) {}

  // y[row] += sums * factors of eight rows, counted from the first row wanted.
  void add_scaled(size_t row, __m256 sums, float* y) const {
    const __m256 scale = eight_scales(scales_ + (is_half_ ? 2 : 4) * row, is_half_);
    _mm256_storeu_ps(y + row,
                     _mm256_fmadd_ps(sums, _mm256_mul_ps(scale, step_), _mm256_loadu_ps(y + row)));
  }

 private:
  const char* scales_;
  bool is_half_;
  __m256 step_;
};

// Prefetches scales of `rows` rows, eight groups ahead: those of neighboring groups lie far apart.
inline void prefetch_scales(const GroupScales& scales, size_t group, size_t rows) {
  const char* p = scales_at(scales, group + 8, 0);
  for (size_t i = 0; i < rows * entry_bytes(scales); i += 64) _mm_prefetch(p + i, _MM_HINT_T0);
}

}  // namespace
}  // namespace rsr
