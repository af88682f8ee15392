// The slot of low-rank products against float64. u is half a unit in the last place of 1.
#include <algorithm>

#include "harness.h"

namespace harness {
namespace {

using rsr::kLanes;

constexpr double kUnit = 1.0 / (1 << 24);

std::vector<float> normals(size_t n) {
  std::vector<float> x(n);
  for (auto& v : x) v = static_cast<float>(normal());
  return x;
}

void check(Harness& harness, size_t rank, size_t rows, size_t count) {
  const size_t stride = rows + 3, tiles = rsr::divide_up(rows, kLanes);
  const std::vector<float> t = normals(count * rank), before = normals(count * stride);
  std::vector<float> b(tiles * rank * kLanes, 0.0f);  // zero in the padding
  const auto at = [&](size_t row, size_t j) -> float& {
    return b[(row / kLanes * rank + j) * kLanes + row % kLanes];
  };
  for (size_t row = 0; row < rows; row++)
    for (size_t j = 0; j < rank; j++) at(row, j) = static_cast<float>(normal());
  harness.each(
      "add_low_rank", [](const rsr::KernelTable& table) -> auto& { return table.add_low_rank; },
      [&](auto add, const Table&) {
        Guarded<float> y((count - 1) * stride + rows);
        std::copy(before.begin(), before.end() - 3, y.data());
        add({b.data(), rank, rows, t.data(), count, y.data(), stride});
        y.check_guards();
        for (size_t i = 0; i < count; i++) {
          for (size_t row = 0; row < rows; row++) {
            double expected = before[i * stride + row], size = std::fabs(expected);
            for (size_t j = 0; j < rank; j++) {
              const double product = static_cast<double>(at(row, j)) * t[i * rank + j];
              expected += product;
              size += std::fabs(product);
            }
            const double bound = kUnit * static_cast<double>(rank + 1) * size;
            expect(y[i * stride + row], expected, bound, "sum", i, row);
          }
          for (size_t gap = rows; gap < stride && i + 1 < count; gap++)
            expect(y[i * stride + gap], before[i * stride + gap], 0, "between rows", i, gap);
          // A row alone: the same bits.
          std::vector<float> alone(before.begin() + i * stride, before.begin() + i * stride + rows);
          add({b.data(), rank, rows, t.data() + i * rank, 1, alone.data(), rows});
          expect_same_bits(y.data() + i * stride, alone.data(), rows, "alone");
        }
      });
}

void time_low_rank(Harness& harness) {
  constexpr size_t kRank = 16, kRows = 1024;
  const std::vector<float> b = normals(kRank * kRows), t = normals(kRank);
  std::vector<float> y(kRows, 0.0f);
  for (size_t i = 0; i < harness.tables.size(); i++) {
    const auto& k = harness.tables[i].kernels;
    if (i > 0 && k.add_low_rank == harness.tables[i - 1].kernels.add_low_rank) continue;
    harness.time("add_low_rank", harness.tables[i], kRank * kRows, "MAC",
                 [&] { k.add_low_rank({b.data(), kRank, kRows, t.data(), 1, y.data(), kRows}); });
  }
}

}  // namespace

void check_low_rank(Harness& harness) {
  for (size_t rows : {1, 15, 16, 17, 33, 64, 100})
    for (size_t rank : {1, 2, 16, 37}) check(harness, rank, rows, pick<size_t>({1, 2, 5}));
  if (harness.is_bench) time_low_rank(harness);
}

}  // namespace harness
