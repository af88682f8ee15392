// Low-rank products beside those of a layer: what a LoRA adapter adds (arXiv 2106.09685).
#pragma once
#include <cstddef>

#include "dense/dense.h"

namespace rsr {

// y += scale * B (A x), for one of the matrices that share the input x.
struct LowRank {
  DenseMatrix a;  // (rank, columns)
  const void* b;  // (whole_lanes(rows) / kLanes, rank, kLanes), as in LowRankRows (table.h)
  DenseType b_dtype;
  float scale;
  size_t rows;
  float* y;  // (count, rows)
};

// x (count, columns of A). scratch: (count * the sum of all ranks).
//
// float32 sums: with t = A x within columns 2^-24 |A| |x|, y is within (rank + 2) 2^-24 (|y| +
// |scale| |B| |t|) of y + scale B t. A row has the same bits whether it comes alone or with others,
// on any number of threads.
void add_low_rank(const float* x, size_t count, const LowRank* products, size_t size,
                  float* scratch);

}  // namespace rsr
