#include "decoder/low_rank.h"

#include <algorithm>

#include "dispatch.h"
#include "parallel.h"

namespace rsr {
namespace {

constexpr size_t kRows = 8;      // of A, that a thread is handed at once
constexpr size_t kVectors = 32;  // of x, with so many rows
constexpr size_t kTiles = 4;     // of B

const void* after(const void* data, size_t cells, DenseType dtype) {
  return static_cast<const char*>(data) + cells * bytes_of(dtype);
}

// Calls body(product, task) for the tasks [begin, end) of all products, whose numbers of
// tasks count(product) returns.
template <class Count, class Body>
void for_tasks(const LowRank* products, size_t size, size_t begin, size_t end, const Count& count,
               const Body& body) {
  size_t first = 0;
  for (size_t i = 0; i < size && first < end; i++) {
    const size_t last = first + count(products[i]);
    for (size_t u = std::max(begin, first); u < std::min(end, last); u++) body(i, u - first);
    first = last;
  }
}

template <class Count>
size_t total(const LowRank* products, size_t size, const Count& count) {
  size_t sum = 0;
  for (size_t i = 0; i < size; i++) sum += count(products[i]);
  return sum;
}

}  // namespace

void add_low_rank(const float* x, size_t count, const LowRank* products, size_t size,
                  float* scratch) {
  if (count == 0) return;
  const auto rank = [](const LowRank& p) { return p.a.rows; };
  // t = A x of product i, (count, rank)
  const auto t_of = [=](size_t i) { return scratch + count * total(products, i, rank); };

  const size_t sets = divide_up(count, kVectors);
  const auto sets_of_rows = [=](const LowRank& p) { return sets * divide_up(p.a.rows, kRows); };
  const auto a_bytes = [](const LowRank& p) {
    return p.a.rows * p.a.columns * bytes_of(p.a.dtype);
  };
  // A comes from memory: a pass over all layers evicts it.
  const bool in_order = count == 1 && kernels().dense.large_in_order;
  const auto multiply = [&](size_t i, size_t task) {
    const LowRank& p = products[i];
    const auto [a, rows, columns, dtype] = p.a;
    const size_t row = task / sets * kRows, vector = task % sets * kVectors;
    DenseRows<float> part{after(a, row * columns, dtype),
                          std::min(kRows, rows - row),
                          columns,
                          x + vector * columns,
                          std::min(kVectors, count - vector),
                          t_of(i) + vector * rows + row,
                          rows};
    part.in_order = in_order;
    slot_of(kernels().dense, dtype)(part);
  };
  parallel_for(total(products, size, sets_of_rows), total(products, size, a_bytes) * count,
               [&](size_t begin, size_t end) {
                 for_tasks(products, size, begin, end, sets_of_rows, multiply);
               });

  const auto tiles = [](const LowRank& p) { return divide_up(p.rows, kTiles * kLanes); };
  const auto b_bytes = [](const LowRank& p) {
    return (p.a.rows * bytes_of(p.b_dtype) + sizeof(float)) * p.rows;
  };
  const auto add = [&](size_t i, size_t task) {
    const LowRank& p = products[i];
    const size_t row = task * kTiles * kLanes;
    slot_of(kernels().low_rank, p.b_dtype)({after(p.b, row * p.a.rows, p.b_dtype), p.a.rows,
                                            std::min(kTiles * kLanes, p.rows - row), p.scale,
                                            t_of(i), count, p.y + row, p.rows});
  };
  parallel_for(
      total(products, size, tiles), total(products, size, b_bytes) * count,
      [&](size_t begin, size_t end) { for_tasks(products, size, begin, end, tiles, add); });
}

}  // namespace rsr
