// The scales of groups in plain C++. Internal linkage: each file that includes this compiles its
// own (table.h).
#pragma once
#include "float16.h"
#include "table.h"

namespace rsr {
namespace {

// The factor of the sum of a group for a row, counted from the first row wanted.
inline float factor_of(const GroupScales& scales, size_t group, size_t row) {
  const size_t i = group * scales.stride + row;
  const float scale = scales.is_half ? from_half(static_cast<const uint16_t*>(scales.data)[i])
                                     : static_cast<const float*>(scales.data)[i];
  return scale * step_of(scales, 0, group);
}

}  // namespace
}  // namespace rsr
