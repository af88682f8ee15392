// The slots of low-rank products, by the dtype of B, against float64. u is half a unit in the last
// place of 1.
#include <algorithm>

#include "float16.h"
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

// Cells of B: `drawn` of a float near it, and what a cell is worth.
struct F32 {
  using Cell = float;
  static constexpr const char* kSlot = "low_rank.f32";
  static auto& slot(const rsr::KernelTable& table) { return table.low_rank.f32; }
  static float drawn(float x) { return x; }
  static float widened(float x) { return x; }
};

struct BF16 {
  using Cell = uint16_t;
  static constexpr const char* kSlot = "low_rank.bf16";
  static auto& slot(const rsr::KernelTable& table) { return table.low_rank.bf16; }
  static uint16_t drawn(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return static_cast<uint16_t>(bits >> 16);
  }
  static float widened(uint16_t bits) { return widen_bf16(bits); }
};

struct F16 {
  using Cell = uint16_t;
  static constexpr const char* kSlot = "low_rank.f16";
  static auto& slot(const rsr::KernelTable& table) { return table.low_rank.f16; }
  static uint16_t drawn(float x) { return rsr::to_half(x); }
  static float widened(uint16_t bits) { return rsr::from_half(bits); }
};

template <class Type>
void check(Harness& harness, size_t rank, size_t rows, size_t count) {
  const size_t stride = rows + 3, tiles = rsr::divide_up(rows, kLanes);
  const std::vector<float> t = normals(count * rank), before = normals(count * stride);
  const float scale = static_cast<float>(normal());
  std::vector<typename Type::Cell> b(tiles * rank * kLanes, 0);  // zero in the padding
  const auto at = [&](size_t row, size_t j) -> auto& {
    return b[(row / kLanes * rank + j) * kLanes + row % kLanes];
  };
  for (size_t row = 0; row < rows; row++)
    for (size_t j = 0; j < rank; j++) at(row, j) = Type::drawn(static_cast<float>(normal()));
  harness.each(Type::kSlot, Type::slot, [&](auto add, const Table&) {
    Guarded<float> y((count - 1) * stride + rows);
    std::copy(before.begin(), before.end() - 3, y.data());
    add({b.data(), rank, rows, scale, t.data(), count, y.data(), stride});
    y.check_guards();
    for (size_t i = 0; i < count; i++) {
      for (size_t row = 0; row < rows; row++) {
        double expected = before[i * stride + row], size = std::fabs(expected);
        for (size_t j = 0; j < rank; j++) {
          const double product =
              static_cast<double>(Type::widened(at(row, j))) * t[i * rank + j] * scale;
          expected += product;
          size += std::fabs(product);
        }
        const double bound = kUnit * static_cast<double>(rank + 2) * size;
        expect(y[i * stride + row], expected, bound, "sum", i, row);
      }
      for (size_t gap = rows; gap < stride && i + 1 < count; gap++)
        expect(y[i * stride + gap], before[i * stride + gap], 0, "between rows", i, gap);
      // A row alone: the same bits.
      std::vector<float> alone(before.begin() + i * stride, before.begin() + i * stride + rows);
      add({b.data(), rank, rows, scale, t.data() + i * rank, 1, alone.data(), rows});
      expect_same_bits(y.data() + i * stride, alone.data(), rows, "alone");
    }
  });
}

// Every number of 16 bits is widened exactly.
template <class Type>
void check_every(Harness& harness) {
  std::vector<uint16_t> every(1 << 16);
  for (size_t i = 0; i < every.size(); i++) every[i] = static_cast<uint16_t>(i);
  harness.each(Type::kSlot, Type::slot, [&](auto add, const Table&) {
    const float one = 1;
    std::vector<float> y(every.size(), 0.0f);
    add({every.data(), 1, y.size(), one, &one, 1, y.data(), y.size()});
    for (size_t i = 0; i < y.size(); i++) expect(y[i], Type::widened(every[i]), 0, "number", i);
  });
}

template <class Type>
void check_dtype(Harness& harness) {
  for (size_t rows : {1, 15, 16, 17, 33, 64, 100})
    for (size_t rank : {1, 2, 16, 37})
      check<Type>(harness, rank, rows, pick<size_t>({1, 2, 4, 5, 9}));
  if (!harness.is_bench) return;
  constexpr size_t kRank = 16, kRows = 1024;
  const std::vector<typename Type::Cell> b(kRank * kRows, Type::drawn(0.5f));
  const std::vector<float> t = normals(kRank);
  std::vector<float> y(kRows, 0.0f);
  harness.each(Type::kSlot, Type::slot, [&](auto add, const Table& table) {
    harness.time(Type::kSlot, table, kRank * kRows, "MAC",
                 [&] { add({b.data(), kRank, kRows, 0.5f, t.data(), 1, y.data(), kRows}); });
  });
}

}  // namespace

void check_low_rank(Harness& harness) {
  check_dtype<F32>(harness);
  check_dtype<BF16>(harness);
  check_dtype<F16>(harness);
  check_every<BF16>(harness);
  check_every<F16>(harness);
}

}  // namespace harness
