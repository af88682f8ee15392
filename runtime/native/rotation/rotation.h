// Rotated bases: signed Walsh-Hadamard transforms of rows of activations.
#pragma once
#include "table.h"

namespace rsr {

// Of rows of n, in blocks of `block`, a power of two from kLanes on that divides n.
struct Rotation {
  size_t n, block;
  const float* factors;  // (n), sign / sqrt(block)
};

// For each of `count` rows of x: `to` of H (factors * x). `to` has no weight and is the first of
// `count` rows; its out, which may be x, and its q and s point to `count` rows too.
void rotate_rows(const float* x, size_t count, const Rotation& by, const RowOutput& to);

// For each of `count` rows: y = factors * (H x), which undoes rotate_rows. y may be x.
void rotate_rows_back(const float* x, size_t count, const Rotation& by, float* y);

}  // namespace rsr
