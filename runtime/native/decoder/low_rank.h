// Low-rank products beside those of a layer: what a LoRA adapter adds (arXiv 2106.09685).
#pragma once
#include <cstddef>

namespace rsr {

// y += B (A x), for one of the matrices that share the input x.
struct LowRank {
  const float* a;  // (rank, columns)
  const float* b;  // (whole_lanes(rows) / kLanes, rank, kLanes), as in LowRankRows (table.h)
  size_t rank, rows;
  float* y;  // (count, rows)
};

// x (count, columns). scratch: (count * the sum of all ranks).
//
// float32 sums: with t = A x within columns 2^-24 |A| |x|, y is within (rank + 1) 2^-24 (|y| + |B|
// |t|) of y + B t. A row has the same bits whether it comes alone or with others, on any number of
// threads.
void add_low_rank(const float* x, size_t columns, size_t count, const LowRank* products,
                  size_t size, float* scratch);

}  // namespace rsr
