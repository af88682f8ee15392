// Signed Walsh-Hadamard transforms against their definition in float64.
#include <algorithm>

#include "harness.h"

namespace harness {
namespace {

constexpr const char* kSlots[] = {"hadamard.forward", "hadamard.inverse"};

auto& slot(const rsr::KernelTable& t, bool inverse) {
  return inverse ? t.hadamard.inverse : t.hadamard.forward;
}

// The signs of H.
double sign(size_t row, size_t column) {
  bool odd = false;
  for (size_t ones = row & column; ones; ones &= ones - 1) odd = !odd;
  return odd ? -1 : 1;
}

std::vector<float> random_factors(size_t n, size_t block) {
  std::vector<float> factors(n);
  for (auto& f : factors) f = (below(2) ? 1.0f : -1.0f) / std::sqrt(static_cast<float>(block));
  return factors;
}

void check(Harness& harness, size_t block, size_t blocks, size_t kind, bool is_inverse) {
  const size_t n = block * blocks;
  const std::vector<float> factors = random_factors(n, block), x = float_inputs(n, kind);
  // Rounding (hadamard.h), with 2 for its second order; and denormal numbers, by half of the
  // smallest.
  const double levels = std::log2(static_cast<double>(block)) + 2;
  harness.each(
      kSlots[is_inverse], [=](auto& t) -> auto& { return slot(t, is_inverse); },
      [&](auto transform, const Table&) {
        Guarded<float> y(n), in_place(n), plain(n);
        std::copy(x.begin(), x.end(), in_place.data());
        transform(x.data(), factors.data(), n, block, y.data());
        transform(in_place.data(), factors.data(), n, block, in_place.data());
        slot(harness.tables[0].kernels, is_inverse)(x.data(), factors.data(), n, block,
                                                    plain.data());
        y.check_guards();
        in_place.check_guards();
        if (kind == kNotFinite) {
          for (size_t i = 0; i < n; i++) {
            const float* begin = x.data() + i / block * block;
            const bool finite =
                std::all_of(begin, begin + block, [](float v) { return std::isfinite(v); });
            expect(std::isfinite(y[i]), finite, 0, "is finite", i);
          }
          return;
        }
        expect_same_bits(y.data(), plain.data(), n, "plain C++");
        expect_same_bits(in_place.data(), plain.data(), n, "in place");
        for (size_t i = 0; i < n; i++) {
          const size_t first = i / block * block, row = i - first;
          double exact = 0, magnitudes = 0;
          for (size_t c = 0; c < block; c++) {
            const double by = is_inverse ? factors[i] : factors[first + c];
            exact += sign(row, c) * by * x[first + c];
            magnitudes += std::fabs(by * x[first + c]);
          }
          expect(y[i], exact,
                 levels * std::ldexp(magnitudes, -24) * (1 + 1e-5) +
                     static_cast<double>(block) * std::ldexp(1.0, -150),
                 "y", i, block);
        }
      });
}

}  // namespace

void check_hadamard(Harness& harness) {
  for (bool is_inverse : {false, true}) {
    for (size_t block : {16, 32, 64, 128, 256, 512, 1024})
      for (size_t kind = 0; kind < kFloatKinds; kind++)
        check(harness, block, block < 512 ? 1 + below(3) : 1, kind, is_inverse);
    check(harness, 1024, 3, 0, is_inverse);
    check(harness, 4096, 1, 0, is_inverse);
    if (!harness.is_bench) continue;
    constexpr size_t kRow = 5120, kBlock = 1024;
    const std::vector<float> factors = random_factors(kRow, kBlock), x = float_inputs(kRow, 0);
    std::vector<float> y(kRow);
    harness.each(
        kSlots[is_inverse], [=](auto& t) -> auto& { return slot(t, is_inverse); },
        [&](auto transform, const Table& table) {
          harness.time(kSlots[is_inverse], table, kRow, "float",
                       [&] { transform(x.data(), factors.data(), kRow, kBlock, y.data()); });
        });
  }
}

}  // namespace harness
