// Slots of the gated delta net against float64. u is half a unit in the last place of 1.
#include "decoder/delta_net.h"

#include <algorithm>

#include "harness.h"

namespace harness {
namespace {

using rsr::kLanes;

constexpr double kUnit = 1.0 / (1 << 24);
constexpr float kEps = 1e-5f;

std::vector<float> normals(size_t n, double scale = 1) {
  std::vector<float> x(n);
  for (auto& v : x) v = static_cast<float>(scale * normal());
  return x;
}

std::vector<float> between_0_and_1(size_t n) {
  std::vector<float> x(n);
  for (auto& v : x) v = static_cast<float>(below(1001)) / 1000.0f;
  return x;
}

double silu(double x) { return x / (1 + std::exp(-x)); }

void check_convolve(Harness& harness, size_t n, size_t taps) {
  const size_t stride = n + 5;
  const std::vector<float> x = normals(taps * n, 2), weights = normals(taps * stride);
  std::vector<const float*> rows(taps);
  for (size_t t = 0; t < taps; t++) rows[t] = x.data() + t * n;
  std::vector<double> expected(n), bound(n);
  double squares = 0;
  for (size_t i = 0; i < n; i++) {
    double sum = 0, size = 0;
    for (size_t t = 0; t < taps; t++) {
      const double product = static_cast<double>(weights[t * stride + i]) * x[t * n + i];
      sum += product;
      size += std::fabs(product);
    }
    expected[i] = silu(sum);
    // Where the slope of SiLU is below 1.1.
    bound[i] = kUnit * (1.1 * static_cast<double>(2 * taps) * size + 8 * std::fabs(expected[i]));
    squares += expected[i] * expected[i];
  }
  harness.each(
      "delta_net.convolve", [](const rsr::KernelTable& t) -> auto& { return t.delta_net.convolve; },
      [&](auto convolve, const Table&) {
        Guarded<float> out(n), normed(n);
        const rsr::ConvolvedChannels of = {rows.data(), weights.data(), taps, stride, n};
        convolve(of, 0.0f, out.data());
        convolve(of, 0.25f, normed.data());
        out.check_guards();
        normed.check_guards();
        double own = 0;  // of what was normalized
        for (size_t i = 0; i < n; i++) {
          expect(out[i], expected[i], bound[i], "convolved", i, n);
          own += static_cast<double>(out[i]) * out[i];
        }
        expect(own, squares, 1e-4 * squares + 1e-6, "squares", n);
        for (size_t i = 0; i < n; i++) {
          const double unit = 0.25 * out[i] / std::sqrt(own + 1e-6);
          expect(normed[i], unit, kUnit * (12 + n / 16.0) * std::fabs(unit), "normalized", i, n);
        }
      });
}

// State (columns, dk) of a head in the layout of the kernel, and back.
size_t at(size_t column, size_t i, size_t dk) {
  return (column / kLanes * dk + i) * kLanes + column % kLanes;
}

void check_update(Harness& harness, size_t dk, size_t columns, size_t rows) {
  const size_t stride = 2 * dk + columns + 3, out_stride = columns + 7, gate_stride = 2;
  std::vector<float> x = normals(rows * stride, 0.5);
  const std::vector<float> decay = between_0_and_1(rows * gate_stride),
                           rate = between_0_and_1(rows * gate_stride);
  const size_t size = rsr::whole_lanes(columns) * dk;
  std::vector<float> before(size, 0.0f);  // zero in the padding
  for (size_t c = 0; c < columns; c++)
    for (size_t i = 0; i < dk; i++) before[at(c, i, dk)] = static_cast<float>(normal());
  harness.each(
      "delta_net.update", [](const rsr::KernelTable& t) -> auto& { return t.delta_net.update; },
      [&](auto update, const Table&) {
        Guarded<float> state(size), alone(size), out((rows - 1) * out_stride + columns, 12345.0f);
        std::copy(before.begin(), before.end(), state.data());
        std::copy(before.begin(), before.end(), alone.data());
        rsr::DeltaRows of = {x.data(),     x.data() + dk, x.data() + 2 * dk, stride,
                             decay.data(), rate.data(),   gate_stride,       rows,
                             dk,           columns,       state.data(),      out.data(),
                             out_stride};
        update(of);
        state.check_guards();
        out.check_guards();
        // Row after row: the same bits, and each step against float64.
        std::vector<float> row_out(columns);
        of.rows = 1;
        of.state = alone.data();
        of.out = row_out.data();
        for (size_t row = 0; row < rows; row++) {
          const std::vector<float> then(alone.data(), alone.data() + size);
          of.q = x.data() + row * stride;
          of.k = of.q + dk;
          of.v = of.k + dk;
          of.decay = decay.data() + row * gate_stride;
          of.rate = rate.data() + row * gate_stride;
          update(of);
          expect_same_bits(out.data() + row * out_stride, row_out.data(), columns, "row of many");
          for (size_t c = 0; c < columns; c++) {
            const double g = *of.decay, beta = *of.rate;
            double a = 0, b = 0, kq = 0, a_size = 0, b_size = 0, kq_size = 0;
            for (size_t i = 0; i < dk; i++) {
              const double s = then[at(c, i, dk)], k = of.k[i], q = of.q[i];
              a += s * k, a_size += std::fabs(s * k);
              b += s * q, b_size += std::fabs(s * q);
              kq += k * q, kq_size += std::fabs(k * q);
            }
            const double terms = static_cast<double>(dk) + 4;  // roundings of a sum, and after it
            const double e = beta * (of.v[c] - g * a);
            const double e_error =
                kUnit * beta * (2 * terms * g * a_size + 3 * std::fabs(of.v[c])) + 1e-30;
            expect(row_out[c], g * b + kq * e,
                   kUnit * 2 * terms * (g * b_size + kq_size * std::fabs(e)) + kq_size * e_error +
                       1e-30,
                   "out", row, c);
            for (size_t i = 0; i < dk; i++) {
              const double s = then[at(c, i, dk)], k = of.k[i], now = g * s + k * e;
              expect(alone[at(c, i, dk)], now,
                     kUnit * 4 * (g * std::fabs(s) + std::fabs(k * e)) + std::fabs(k) * e_error,
                     "state", c, i);
            }
          }
        }
        expect_same_bits(state.data(), alone.data(), size, "state after many rows");
        for (size_t c = columns; c < rsr::whole_lanes(columns); c++)
          for (size_t i = 0; i < dk; i++) expect(state[at(c, i, dk)], 0, 0, "padding", c, i);
      });
}

void check_norm_gated(Harness& harness, size_t heads, size_t d) {
  const size_t n = heads * d;
  const std::vector<float> x = normals(n, 3), z = normals(n, 4), weight = normals(d);
  harness.each(
      "delta_net.norm_gated",
      [](const rsr::KernelTable& t) -> auto& { return t.delta_net.norm_gated; },
      [&](auto norm_gated, const Table&) {
        Guarded<float> out(n), scratch(n), s(1), only_s(1);
        Guarded<int8_t> q(n), only_q(n);
        norm_gated(x.data(), z.data(), d, weight.data(), kEps, out.data(),
                   {n, nullptr, 0, out.data(), q.data(), s.data()});
        norm_gated(x.data(), z.data(), d, weight.data(), kEps, scratch.data(),
                   {n, nullptr, 0, nullptr, only_q.data(), only_s.data()});
        for (auto* one : {&out, &scratch, &s, &only_s}) one->check_guards();
        expect_same_bits(scratch.data(), out.data(), n, "h");
        expect_same_bits(only_q.data(), q.data(), n, "q without out");
        for (size_t h = 0; h < heads; h++) {
          double squares = 0;
          for (size_t i = 0; i < d; i++)
            squares += static_cast<double>(x[h * d + i]) * x[h * d + i];
          const double inverse = 1 / std::sqrt(squares / static_cast<double>(d) + kEps);
          for (size_t i = 0; i < d; i++) {
            const double expected = x[h * d + i] * inverse * weight[i] * silu(z[h * d + i]);
            expect(out[h * d + i], expected, 40 * kUnit * std::fabs(expected) + 1e-37, "out", h, i);
          }
        }
        for (size_t i = 0; i < n; i++) expect(q[i], std::nearbyint(out[i] * s[0]), 0, "q", i);
      });
}

void time_delta_net(Harness& harness) {
  constexpr size_t kHead = 128, kRows = 64;
  std::vector<float> x = normals(kRows * 3 * kHead, 0.1), gates(kRows, 0.9f), out(kRows * kHead);
  std::vector<float> state(kHead * kHead, 0.0f);
  for (size_t t = 0; t < harness.tables.size(); t++) {
    const auto& k = harness.tables[t].kernels.delta_net;
    if (t > 0 && k.update == harness.tables[t - 1].kernels.delta_net.update) continue;
    rsr::DeltaRows of = {x.data(),
                         x.data() + kHead,
                         x.data() + 2 * kHead,
                         3 * kHead,
                         gates.data(),
                         gates.data(),
                         1,
                         kRows,
                         kHead,
                         4 * kLanes,
                         state.data(),
                         out.data(),
                         kHead};
    harness.time("delta_net.update", harness.tables[t], 4.0 * kRows * kHead * 4 * kLanes, "MAC",
                 [&] { k.update(of); });
    const float* rows[4] = {x.data(), x.data() + kHead, x.data(), x.data() + kHead};
    harness.time("delta_net.convolve", harness.tables[t], 4 * kHead, "MAC",
                 [&] { k.convolve({rows, x.data(), 4, kHead, kHead}, 1.0f, out.data()); });
    harness.time("delta_net.norm_gated", harness.tables[t], 16 * kHead, "float", [&] {
      k.norm_gated(x.data(), x.data(), kHead, x.data(), kEps, out.data(),
                   {16 * kHead, nullptr, 0, out.data(), nullptr, nullptr});
    });
  }
}

}  // namespace

void check_delta_net(Harness& harness) {
  for (size_t n : {1, 15, 16, 17, 32, 100, 128})
    for (size_t taps : {1, 2, 4, 16}) check_convolve(harness, n, taps);
  for (size_t columns : {1, 15, 16, 17, 32, 48, 64, 100, 128})
    for (size_t dk : {1, 16, 24, 128}) check_update(harness, dk, columns, pick<size_t>({1, 2, 5}));
  for (size_t d : {1, 16, 24, 32, 128}) check_norm_gated(harness, pick<size_t>({1, 3, 6}), d);
  if (harness.is_bench) time_delta_net(harness);
}

}  // namespace harness
