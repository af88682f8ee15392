// What the kernels of AVX-512 VNNI share: how vectors are divided, and what their sums begin with.
// Internal linkage: each file that includes this compiles its own (table.h).
#pragma once
#include <cstddef>
#include <cstdint>

#include "packing.h"

namespace rsr {
namespace {

constexpr size_t kSetVectors = 12;  // multiplied at once

// The vectors of a pass are divided into sets of at most kSetVectors, as evenly as possible.
inline size_t sets_of(size_t count) { return divide_up(count, kSetVectors); }
inline size_t set_begin(size_t set, size_t count) { return set * count / sets_of(count); }

// vpdpbusd multiplies unsigned by signed, so panels hold digit - smallest digit.
inline int smallest_digit(const int16_t* patterns, int k) {
  int smallest = 0;
  for (int i = 0; i < k * kPatterns; i++)
    if (patterns[i] < smallest) smallest = patterns[i];
  return smallest;
}

}  // namespace
}  // namespace rsr
