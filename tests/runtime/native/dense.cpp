// Slots dense.f32, bf16, f16 and i8: rows of dense weights.
#include <algorithm>

#include "float16.h"
#include "harness.h"

namespace harness {
namespace {

// Weights of one dtype at an odd address, and their values.
struct Weights {
  size_t rows, columns, bytes;
  Guarded<char> memory;
  std::vector<double> values;

  template <class Draw>
  Weights(size_t rows, size_t columns, size_t bytes, const Draw& draw)
      : rows(rows),
        columns(columns),
        bytes(bytes),
        memory(rows * columns * bytes + 1),
        values(rows * columns) {
    for (size_t i = 0; i < values.size(); i++) values[i] = draw(data() + i * bytes);
  }
  char* data() { return memory.data() + 1; }
};

template <class X>
struct Case {
  Weights& w;
  size_t count, stride;
  Guarded<X> x;
  std::vector<float> scale, divisors;

  Case(Weights& w, size_t count) : w(w), count(count), stride(w.rows + 3), x(count * w.columns) {
    for (size_t i = 0; i < count; i++) {
      const auto fill = [&](const auto& one) {
        std::copy(one.begin(), one.end(), x.data() + i * w.columns);
      };
      if constexpr (std::is_same_v<X, int8_t>)
        fill(int8_inputs(w.columns, i));
      else
        fill(float_inputs(w.columns, i % 3 == 2 ? kNotFinite : i % 3));
    }
    for (size_t r = 0; r < w.rows; r++) scale.push_back(normal());
    for (size_t i = 0; i < count; i++) divisors.push_back(1 + std::fabs(normal()));
  }

  // Vectors [first, first + some) of the case.
  rsr::DenseRows<X> part(size_t first, size_t some, float* y, bool in_order) {
    rsr::DenseRows<X> rows{w.data(), w.rows, w.columns, x.data() + first * w.columns,
                           some,     y,      stride};
    if (std::is_same_v<X, int8_t>) rows.scale = scale.data(), rows.divisors = &divisors[first];
    rows.in_order = in_order;
    return rows;
  }

  size_t outputs(size_t some) const { return (some - 1) * stride + w.rows; }
};

template <class X, class Kernel>
void check(const Kernel& kernel, Case<X>& c) {
  Guarded<float> y(c.outputs(c.count), 99.0f);
  kernel(c.part(0, c.count, y.data(), false));
  y.check_guards();
  for (size_t v = 0; v < c.count; v++) {
    // Neither its neighbors nor the order of the rows change a result.
    Guarded<float> alone(c.w.rows, 99.0f), in_order(c.w.rows, 99.0f);
    kernel(c.part(v, 1, alone.data(), false));
    kernel(c.part(v, 1, in_order.data(), true));
    alone.check_guards();
    in_order.check_guards();
    expect_same_bits(alone.data(), y.data() + v * c.stride, c.w.rows, "row of a vector alone");
    expect_same_bits(in_order.data(), alone.data(), c.w.rows, "row in order");
    for (size_t r = 0; r < c.w.rows; r++) {
      double sum = 0, magnitude = 0;
      for (size_t j = 0; j < c.w.columns; j++) {
        const double product = c.w.values[r * c.w.columns + j] * c.x[v * c.w.columns + j];
        sum += product;
        magnitude += std::fabs(product);
      }
      const double terms = static_cast<double>(std::max<size_t>(c.w.columns, 2));
      if (std::is_same_v<X, int8_t>)
        expect(alone[r], static_cast<float>(sum) * c.scale[r] / c.divisors[v], 0, "vector, row", v,
               r);
      else if (std::isfinite(magnitude) && magnitude < 1e37)
        expect(alone[r], sum, terms * std::ldexp(magnitude, -24) + 1e-40, "vector, row", v, r);
      else if (!std::isfinite(magnitude))
        expect(alone[r], sum, 0, "vector, row, not finite", v, r);
    }
  }
  for (size_t v = 0; v + 1 < c.count; v++)
    for (size_t r = c.w.rows; r < c.stride; r++)
      expect(y[v * c.stride + r], 99, 0, "what lies between the rows", v, r);
}

template <class X, class Get, class Draw>
void check_dtype(Harness& harness, const char* slot, size_t bytes, const Draw& draw,
                 const Get& get) {
  for (size_t columns : {1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200})
    for (size_t rows : {1, 2, 3, 4, 7, 8, 9, 17, 33}) {
      Weights w(rows, columns, bytes, draw);
      Case<X> c(w, pick<size_t>({1, 2, 3, 4, 5, 6, 7, 13}));
      harness.each(slot, get, [&](const auto& kernel, const Table&) { check(kernel, c); });
    }
  if (!harness.is_bench) return;
  Weights w(512, 1024, bytes, draw);
  Case<X> c(w, 1);
  Guarded<float> y(w.rows);
  harness.each(slot, get, [&](const auto& kernel, const Table& table) {
    harness.time(slot, table, static_cast<double>(w.rows * w.columns), "MAC",
                 [&] { kernel(c.part(0, 1, y.data(), false)); });
  });
}

}  // namespace

void check_dense(Harness& harness) {
  const auto draw_f32 = [](char* to) {
    const float value = normal();
    std::memcpy(to, &value, sizeof value);
    return static_cast<double>(value);
  };
  // `lowest` and `count` exponents, from there on, of 16-bit numbers with this many bits of
  // mantissa.
  const auto draw_16 = [](char* to, float (*widen)(uint16_t), int mantissa, size_t lowest,
                          size_t count) {
    const size_t random = rng()();
    const uint16_t bits = static_cast<uint16_t>((random & (0x8000 | ((1 << mantissa) - 1))) |
                                                (lowest + below(count)) << mantissa);
    std::memcpy(to, &bits, sizeof bits);
    return static_cast<double>(widen(bits));
  };
  const auto draw_bf16 = [&](char* to) { return draw_16(to, widen_bf16, 7, 107, 40); };
  const auto draw_f16 = [&](char* to) { return draw_16(to, rsr::from_half, 10, 0, 31); };
  const auto draw_i8 = [](char* to) {
    const int8_t value = pick<int8_t>({-128, -127, 0, 127, static_cast<int8_t>(rng()())});
    std::memcpy(to, &value, 1);
    return static_cast<double>(value);
  };
  check_dtype<float>(harness, "dense.f32", 4, draw_f32,
                     [](const rsr::KernelTable& t) -> auto& { return t.dense.f32; });
  check_dtype<float>(harness, "dense.bf16", 2, draw_bf16,
                     [](const rsr::KernelTable& t) -> auto& { return t.dense.bf16; });
  check_dtype<float>(harness, "dense.f16", 2, draw_f16,
                     [](const rsr::KernelTable& t) -> auto& { return t.dense.f16; });
  check_dtype<int8_t>(harness, "dense.i8", 1, draw_i8,
                      [](const rsr::KernelTable& t) -> auto& { return t.dense.i8; });
  // Every 16-bit weight is widened exactly; the longest row of int8 at its ends.
  Guarded<uint16_t> every(1 << 16);
  for (size_t i = 0; i < every.size(); i++) every[i] = static_cast<uint16_t>(i);
  const auto check_every = [&](const char* slot, const auto& get, float (*widen)(uint16_t)) {
    harness.each(slot, get, [&](const auto& kernel, const Table&) {
      const float one = 1;
      Guarded<float> y(every.size());
      kernel(rsr::DenseRows<float>{every.data(), every.size(), 1, &one, 1, y.data(), every.size()});
      for (size_t i = 0; i < every.size(); i++) expect(y[i], widen(every[i]), 0, "weight", i);
    });
  };
  check_every(
      "dense.bf16", [](const rsr::KernelTable& t) -> auto& { return t.dense.bf16; }, widen_bf16);
  check_every(
      "dense.f16", [](const rsr::KernelTable& t) -> auto& { return t.dense.f16; }, rsr::from_half);
  const size_t longest = (1 << 17) - 1;
  for (int w : {-128, 127})
    for (int x : {-128, 127})
      harness.each(
          "dense.i8", [](const rsr::KernelTable& t) -> auto& { return t.dense.i8; },
          [&](const auto& kernel, const Table&) {
            Guarded<int8_t> weights(longest, static_cast<int8_t>(w));
            Guarded<int8_t> inputs(longest, static_cast<int8_t>(x));
            const float one = 1;
            float y = 0;
            kernel(rsr::DenseRows<int8_t>{weights.data(), 1, longest, inputs.data(), 1, &y, 1, &one,
                                          &one});
            expect(y, static_cast<float>(static_cast<double>(longest) * w * x), 0, "row", 0);
          });
}

}  // namespace harness
