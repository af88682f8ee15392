// Kernels of single rows, applied to many.
#pragma once
#include "buffer.h"
#include "parallel.h"
#include "table.h"

namespace rsr {

// Row i of the outputs whose first row is given.
inline RowOutput row_of(const RowOutput& first, size_t i) {
  RowOutput to = first;
  if (to.out) to.out += i * to.n;
  if (to.q) to.q += i * to.n, to.s += i * scale_count(to);
  return to;
}

// Floats for a row that has none of its own: they stay in the cache.
inline float* floats_of(const RowOutput& row) {
  thread_local Buffer floats;
  return row.out ? row.out : static_cast<float*>(floats.get(row.n * sizeof(float)));
}

// Calls work(i) for each row; `passes` is how often it reads its floats, a measure of the work.
template <class Work>
void for_each_row(size_t count, size_t n, size_t passes, const Work& work) {
  if (count == 1) return work(0);
  parallel_for(count, count * n * sizeof(float) * passes, [&work](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) work(i);
  });
}

}  // namespace rsr
