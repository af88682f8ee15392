// Slots of the decoder: rows of activations, RoPE, the KV cache and attention, against float64.
#include <algorithm>

#include "float16.h"
#include "harness.h"

namespace harness {
namespace {

using rsr::kChunkPositions;
using rsr::kLanes;
using rsr::kMaximum;
using rsr::kStatistics;
using rsr::kTotal;

constexpr double kUlp = 1.0 / (1 << 23);
constexpr float kEps = 1e-5f;

std::vector<float> normals(size_t n, double scale = 1) {
  std::vector<float> x(n);
  for (auto& v : x) v = static_cast<float>(scale * normal());
  return x;
}

// The outputs of a row, and whether q and s are those of `out` (bit for bit, on plain C++).
struct Row {
  Guarded<float> out, s;
  Guarded<int8_t> q;

  explicit Row(size_t n) : out(n, 12345.0f), s(1, 12345.0f), q(n, int8_t{99}) {}

  rsr::RowOutput to(const float* weight, bool has_out = true, bool has_q = true) {
    return {q.size(),
            weight,
            kEps,
            has_out ? out.data() : nullptr,
            has_q ? q.data() : nullptr,
            has_q ? s.data() : nullptr};
  }
  void check_guards() {
    out.check_guards();
    s.check_guards();
    q.check_guards();
  }
  // q and steps of a kernel that quantizes by groups against the definition; every float operation
  // rounds once.
  static void check_groups(const float* h, size_t columns, Guarded<int8_t>& q,
                           Guarded<float>& steps) {
    q.check_guards();
    steps.check_guards();
    for (size_t g = 0; g < steps.size(); g++) {
      const size_t first = g * columns, last = std::min(q.size(), first + columns);
      float m = 0;
      bool finite = true;
      for (size_t i = first; i < last; i++) {
        finite = finite && std::isfinite(h[i]);
        m = std::max(m, std::fabs(h[i]));
      }
      const bool counts = finite && m >= std::ldexp(1.0f, -119);
      const float inverse = counts ? 127.0f / m : 0.0f;
      finite ? expect(steps[g], counts ? m / 127.0f : 0.0f, 0, "step", g)
             : expect(std::isnan(steps[g]), 1, 0, "NaN as the step", g);
      for (size_t i = first; i < last; i++)
        expect(q[i], counts ? std::nearbyint(h[i] * inverse) : 0.0f, 0, "q of a group", i);
    }
  }
  void check_quantized(const Harness& harness) {
    Row expected(q.size());
    harness.tables[0].kernels.decoder.normalize(out.data(), nullptr,
                                                expected.to(nullptr, false, true));
    expect_same_bits(q.data(), expected.q.data(), q.size(), "q");
    expect_same_bits(s.data(), expected.s.data(), 1, "s");
  }
};

// h / sqrt(mean(h^2) + eps) * weight.
std::vector<double> rms_norm(const std::vector<double>& h, const float* weight) {
  if (!weight) return h;
  double squares = 0;
  for (double v : h) squares += v * v;
  std::vector<double> norm = h;
  for (size_t i = 0; i < h.size(); i++)
    norm[i] *= weight[i] / std::sqrt(squares / static_cast<double>(h.size()) + kEps);
  return norm;
}

void expect_all(Guarded<float>& found, const std::vector<double>& expected, double ulps,
                const char* what) {
  for (size_t i = 0; i < expected.size(); i++)
    expect(found[i], expected[i], ulps * kUlp * std::fabs(expected[i]) + 1e-37, what, i,
           expected.size());
}

void check_rows(Harness& harness, size_t n) {
  const std::vector<float> weight = normals(n), addend = normals(n);
  for (size_t kind = 0; kind < kFloatKinds; kind++)
    for (int with = 0; with < 4; with++) {
      const std::vector<float> x = float_inputs(n, kind);
      const bool finite = kind != kNotFinite;
      const float* w = with & 1 ? weight.data() : nullptr;
      const float* add = with & 2 ? addend.data() : nullptr;
      std::vector<double> wide(n);
      for (size_t i = 0; i < n; i++) wide[i] = add ? x[i] + add[i] : x[i];
      const bool representable = finite && std::all_of(wide.begin(), wide.end(), [](double v) {
                                   return std::fabs(v) < 1e15 && (v == 0 || std::fabs(v) > 1e-15);
                                 });
      harness.each(
          "decoder.normalize",
          [](const rsr::KernelTable& t) -> auto& { return t.decoder.normalize; },
          [&](auto normalize, const Table&) {
            Guarded<float> given(n);
            std::copy(x.begin(), x.end(), given.data());
            Row row(n), only_q(n), in_place(n);
            normalize(given.data(), add, row.to(w));
            given.check_guards();
            row.check_guards();
            for (size_t i = 0; i < n; i++) expect(given[i], wide[i], 0, "x + add", i);
            row.check_quantized(harness);
            if (!w)
              for (size_t i = 0; i < n; i++) expect(row.out[i], wide[i], 0, "out", i);
            else if (representable)
              expect_all(row.out, rms_norm(wide, w), 8, "norm");
            normalize(given.data(), nullptr, only_q.to(w, false, true));
            expect_same_bits(only_q.q.data(), row.q.data(), n, "q without out");
            rsr::RowOutput to = in_place.to(w);
            to.out = given.data();
            normalize(given.data(), nullptr, to);
            expect_same_bits(given.data(), row.out.data(), n, "out in place of x");
            expect_same_bits(in_place.q.data(), row.q.data(), n, "q, out in place of x");
            for (size_t columns : {size_t{1}, size_t{32}, size_t{48}, size_t{100}, size_t{128}}) {
              Guarded<int8_t> q(n, int8_t{99});
              Guarded<float> steps(rsr::divide_up(n, columns), 12345.0f);
              normalize(given.data(), nullptr,
                        {n, nullptr, kEps, nullptr, q.data(), steps.data(), columns});
              Row::check_groups(given.data(), columns, q, steps);
              Guarded<float> out(n, 12345.0f);
              normalize(given.data(), nullptr,
                        {n, w, kEps, out.data(), q.data(), steps.data(), columns});
              out.check_guards();
              Row::check_groups(out.data(), columns, q, steps);
            }
          });
    }
  for (rsr::Activation activation : {rsr::Activation::silu, rsr::Activation::relu2})
    for (bool has_weight : {false, true}) {
      std::vector<float> gate = normals(n, 8);
      const std::vector<float> up = normals(n);
      std::vector<double> h(n);
      for (size_t i = 0; i < n; i++) {
        const double g = gate[i];
        h[i] = up[i] * (activation == rsr::Activation::silu ? g / (1 + std::exp(-g))
                                                            : std::max(g, 0.0) * std::max(g, 0.0));
      }
      const float* w = has_weight ? weight.data() : nullptr;
      harness.each(
          "decoder.gate", [](const rsr::KernelTable& t) -> auto& { return t.decoder.gate; },
          [&](auto gate_row, const Table&) {
            Row row(n), separate(n);
            gate_row(gate.data(), up.data(), activation, row.out.data(), row.to(w));
            row.check_guards();
            expect_all(row.out, rms_norm(h, w), 16, "activation(gate) * up");
            row.check_quantized(harness);
            Guarded<float> scratch(n);
            gate_row(gate.data(), up.data(), activation, scratch.data(), separate.to(w, false));
            expect_same_bits(separate.q.data(), row.q.data(), n, "q without out");
            Guarded<int8_t> q(n, int8_t{99});
            Guarded<float> steps(rsr::divide_up(n, 32), 12345.0f);
            gate_row(gate.data(), up.data(), activation, scratch.data(),
                     {n, w, kEps, nullptr, q.data(), steps.data(), 32});
            Row::check_groups(row.out.data(), 32, q, steps);
          });
    }
}

// silu over its whole range: within 4 ulp down to where e^x is denormal, then 0.
void check_silu(Harness& harness) {
  std::vector<float> x;
  for (int i = 0; i <= 40000; i++) x.push_back(-87.33f + 0.0044f * static_cast<float>(i));
  for (int i = 0; i < 4000; i++)
    x.push_back(std::pow(10.0f, -37 + 0.01f * static_cast<float>(i) / 2) * (i % 2 ? 1.0f : -1.0f));
  const std::vector<float> ones(x.size(), 1.0f);
  harness.each(
      "decoder.gate", [](const rsr::KernelTable& t) -> auto& { return t.decoder.gate; },
      [&](auto gate, const Table&) {
        Guarded<float> h(x.size());
        gate(x.data(), ones.data(), rsr::Activation::silu, h.data(),
             {x.size(), nullptr, 0, h.data(), nullptr, nullptr});
        for (size_t i = 0; i < x.size(); i++) {
          const double v = x[i], expected = v / (1 + std::exp(-v));
          expect(h[i], v < -87.33654 ? 0 : expected, 4 * kUlp * std::fabs(expected), "silu", i);
        }
        constexpr float kInfinity = std::numeric_limits<float>::infinity();
        const float special[4] = {std::numeric_limits<float>::quiet_NaN(), kInfinity, -kInfinity,
                                  -1000};
        const double nan = special[0];
        const double expected[4] = {nan, kInfinity, nan, 0};
        gate(special, ones.data(), rsr::Activation::silu, h.data(),
             {4, nullptr, 0, h.data(), nullptr, nullptr});
        for (size_t i = 0; i < 4; i++) expect(h[i], expected[i], 0, "silu, special", i);
      });
}

void check_rotate(Harness& harness, size_t d) {
  const std::vector<float> x = normals(d), weight = normals(d);
  const size_t half = d / 2;
  std::vector<float> cos(half), sin(half);
  for (size_t i = 0; i < half; i++) {
    const double angle = 6.283 * uniform();
    cos[i] = static_cast<float>(std::cos(angle));
    sin[i] = static_cast<float>(std::sin(angle));
  }
  for (bool has_weight : {false, true}) {
    const float* w = has_weight ? weight.data() : nullptr;
    const std::vector<double> norm = rms_norm({x.begin(), x.end()}, w);
    harness.each(
        "decoder.rotate", [](const rsr::KernelTable& t) -> auto& { return t.decoder.rotate; },
        [&](auto rotate, const Table&) {
          Guarded<float> y(d);
          std::copy(x.begin(), x.end(), y.data());
          rotate(y.data(), d, w, kEps, cos.data(), sin.data(), 0.125f);
          y.check_guards();
          for (size_t i = 0; i < half; i++) {
            const double a = norm[i], b = norm[half + i];
            const double bound =
                (has_weight ? 10 : 4) * kUlp / 8 * (std::fabs(a) + std::fabs(b)) + 1e-37;
            expect(y[i], 0.125 * (a * cos[i] - b * sin[i]), bound, "first half", i, d);
            expect(y[half + i], 0.125 * (b * cos[i] + a * sin[i]), bound, "second half", i, d);
          }
        });
  }
}

void check_store(Harness& harness, size_t d, size_t kind) {
  const std::vector<float> k = float_inputs(d, kind), v = float_inputs(d, kind);
  const size_t dv = rsr::whole_lanes(d);
  harness.each(
      "decoder.store", [](const rsr::KernelTable& t) -> auto& { return t.decoder.store; },
      [&](auto store, const Table&) {
        Guarded<float> block(d * kLanes, 7.0f), values(dv, 7.0f);
        store(k.data(), v.data(), d, block.data() + 3, values.data(), false);
        Guarded<uint16_t> half_block(d * kLanes, uint16_t{7}), halves(dv, uint16_t{7});
        store(k.data(), v.data(), d, half_block.data() + 3, halves.data(), true);
        block.check_guards();
        values.check_guards();
        half_block.check_guards();
        halves.check_guards();
        const auto expect_half = [](uint16_t found, float from, size_t i) {
          const float expected = rsr::from_half(rsr::to_half(from));
          expect(rsr::from_half(found), expected, 0, "float16", i);
        };
        for (size_t i = 0; i < block.size(); i++) {
          const bool written = i % kLanes == 3;
          expect(block[i], written ? k[i / kLanes] : 7, 0, "key", i);
          written ? expect_half(half_block[i], k[i / kLanes], i)
                  : expect(half_block[i], 7, 0, "lane of another position", i);
        }
        for (size_t i = 0; i < dv; i++) {
          expect(values[i], i < d ? v[i] : 0, 0, "value", i);
          expect_half(halves[i], i < d ? v[i] : 0, i);
        }
      });
}

// A chunk of a cache, float16 or float32, with NaN where no query looks.
struct Chunk {
  size_t rows, heads, d, dv, visible, seen;
  bool is_half;
  std::vector<float> queries, keys, values;  // as they are in the cache
  Guarded<float> key_cells, value_cells;
  Guarded<uint16_t> key_halves, value_halves;

  Chunk(size_t rows, size_t heads, size_t d, size_t visible, bool is_half)
      : rows(rows),
        heads(heads),
        d(d),
        dv(rsr::whole_lanes(d)),
        visible(visible),
        seen(std::min(kChunkPositions, visible + rows - 1)),
        is_half(is_half),
        queries(normals(rows * heads * d, 1 / std::sqrt(static_cast<double>(d)))),
        keys(kChunkPositions * d),
        values(kChunkPositions * dv),
        key_cells(kChunkPositions * d),
        value_cells(kChunkPositions * dv),
        key_halves(kChunkPositions * d),
        value_halves(kChunkPositions * dv) {
    constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
    const auto rounded = [is_half](float x) {
      return is_half ? rsr::from_half(rsr::to_half(x)) : x;
    };
    for (size_t p = 0; p < kChunkPositions; p++) {
      for (size_t c = 0; c < d; c++) {
        const float key = p < seen ? rounded(2 * normal()) : kNan;
        const size_t cell = (p / kLanes * d + c) * kLanes + p % kLanes;
        keys[p * d + c] = key_cells[cell] = key;
        key_halves[cell] = rsr::to_half(key);
      }
      for (size_t c = 0; c < dv; c++) {
        const float value = p >= seen ? kNan : c < d ? rounded(normal()) : 0;
        values[p * dv + c] = value_cells[p * dv + c] = value;
        value_halves[p * dv + c] = rsr::to_half(value);
      }
    }
  }

  size_t scratch_size(size_t count) const {
    return count * heads * kChunkPositions + (is_half ? kChunkPositions * (d + dv) : 0);
  }

  // Rows [first, first + count).
  void attend(const rsr::DecoderKernels& kernels, size_t first, size_t count, float* sums,
              float* statistics) {
    Guarded<float> scratch(scratch_size(count));
    attend(kernels, first, count, scratch.data(), sums, statistics);
    scratch.check_guards();
  }
  void attend(const rsr::DecoderKernels& kernels, size_t first, size_t count, float* scratch,
              float* sums, float* statistics) {
    kernels.attend({queries.data() + first * heads * d, heads * d, count, heads, d, visible + first,
                    is_half ? static_cast<void*>(key_halves.data()) : key_cells.data(),
                    is_half ? static_cast<void*>(value_halves.data()) : value_cells.data(), is_half,
                    scratch, sums, statistics});
  }
};

void check_attend(Harness& harness, size_t rows, size_t heads, size_t d, size_t visible,
                  bool is_half) {
  Chunk chunk(rows, heads, d, visible, is_half);
  const size_t queries = rows * heads, dv = chunk.dv;
  harness.each(
      "decoder.attend", [](const rsr::KernelTable& t) -> auto& { return t.decoder.attend; },
      [&](auto, const Table& table) {
        Guarded<float> sums(queries * dv, 12345.0f), statistics(queries * kStatistics, 12345.0f);
        chunk.attend(table.kernels.decoder, 0, rows, sums.data(), statistics.data());
        sums.check_guards();
        statistics.check_guards();
        for (size_t j = 0; j < queries; j++) {
          const size_t seen = std::min(kChunkPositions, visible + j / heads);
          const float* q = chunk.queries.data() + j * d;
          std::vector<double> scores(seen);
          double worst = 0, maximum = -1e300, total = 0;
          for (size_t p = 0; p < seen; p++) {
            double magnitude = 0;
            for (size_t c = 0; c < d; c++) {
              const double product = static_cast<double>(q[c]) * chunk.keys[p * d + c];
              scores[p] += product;
              magnitude += std::fabs(product);
            }
            worst = std::max(worst, magnitude);
            maximum = std::max(maximum, scores[p]);
          }
          const double off = static_cast<double>(d) * std::ldexp(worst, -24);  // of a score
          expect(statistics[j * kStatistics + kMaximum], maximum, off, "maximum", j);
          // exp of two scores, each off; 4 ulp of exp; a sum of `seen`.
          const double relative = 2 * off + (4 + static_cast<double>(seen) / 2) * kUlp;
          std::vector<double> mixed(dv), magnitudes(dv);
          for (size_t p = 0; p < seen; p++) {
            const double weight = std::exp(scores[p] - maximum);
            total += weight;
            for (size_t c = 0; c < dv; c++) {
              mixed[c] += weight * chunk.values[p * dv + c];
              magnitudes[c] += weight * std::fabs(chunk.values[p * dv + c]);
            }
          }
          expect(statistics[j * kStatistics + kTotal], total, relative * total, "total", j);
          for (size_t c = 0; c < dv; c++)
            expect(sums[j * dv + c], mixed[c], relative * magnitudes[c], "sum of values", j, c);
        }
        // A row alone gives the same bits.
        const size_t row = below(rows);
        Guarded<float> alone(heads * dv), its(heads * kStatistics);
        chunk.attend(table.kernels.decoder, row, 1, alone.data(), its.data());
        expect_same_bits(alone.data(), sums.data() + row * heads * dv, heads * dv, "sums of a row");
        expect_same_bits(its.data(), statistics.data() + row * heads * kStatistics,
                         heads * kStatistics, "statistics of a row");
      });
  // Two chunks combined, then divided.
  const std::vector<float> first = normals(queries * dv), second = normals(queries * dv);
  std::vector<float> statistics[2] = {normals(queries * kStatistics, 3),
                                      normals(queries * kStatistics, 3)};
  for (auto& s : statistics)
    for (size_t j = 0; j < queries; j++) s[j * kStatistics + kTotal] = 1 + std::fabs(normal());
  harness.each(
      "decoder.combine", [](const rsr::KernelTable& t) -> auto& { return t.decoder.combine; },
      [&](auto combine, const Table&) {
        Guarded<float> sums(queries * dv), all(queries * kStatistics);
        std::copy(first.begin(), first.end(), sums.data());
        std::copy(statistics[0].begin(), statistics[0].end(), all.data());
        combine(queries, dv, second.data(), statistics[1].data(), sums.data(), all.data());
        sums.check_guards();
        all.check_guards();
        for (size_t j = 0; j < queries; j++) {
          const float *a = &statistics[0][j * kStatistics], *b = &statistics[1][j * kStatistics];
          const double maximum = std::max(a[kMaximum], b[kMaximum]);
          const double of_a = std::exp(a[kMaximum] - maximum),
                       of_b = std::exp(b[kMaximum] - maximum);
          const double total = of_a * a[kTotal] + of_b * b[kTotal];
          expect(all[j * kStatistics + kMaximum], maximum, 0, "maximum", j);
          // The difference of two maxima is rounded: relative to the exponential, that many ulp.
          const double ulps = 8 + std::fabs(a[kMaximum] - b[kMaximum]);
          expect(all[j * kStatistics + kTotal], total, ulps * kUlp * total, "total", j);
          for (size_t c = 0; c < dv; c++) {
            const double x = of_a * first[j * dv + c], y = of_b * second[j * dv + c];
            expect(sums[j * dv + c], x + y, ulps * kUlp * (std::fabs(x) + std::fabs(y)), "sum", j,
                   c);
          }
        }
      });
  harness.each(
      "decoder.divide", [](const rsr::KernelTable& t) -> auto& { return t.decoder.divide; },
      [&](auto divide, const Table&) {
        Guarded<float> out(queries * d);
        divide(queries, d, first.data(), statistics[0].data(), out.data());
        out.check_guards();
        for (size_t j = 0; j < queries; j++)
          for (size_t c = 0; c < d; c++) {
            const double expected =
                first[j * dv + c] / static_cast<double>(statistics[0][j * kStatistics + kTotal]);
            expect(out[j * d + c], expected, 2 * kUlp * std::fabs(expected), "out", j, c);
          }
      });
}

void time_decoder(Harness& harness) {
  constexpr size_t kRow = 2560, kHead = 128;
  std::vector<float> x = normals(kRow), y = normals(kRow), w = normals(kRow), cos(kHead),
                     sin(kHead);
  std::vector<int8_t> q(kRow);
  float s;
  const auto time = [&](const char* slot, const auto& get, double amount, const char* unit,
                        const auto& work) {
    harness.each(slot, get, [&](auto, const Table& table) {
      harness.time(slot, table, amount, unit, [&] { work(table.kernels.decoder); });
    });
  };
  const rsr::RowOutput to = {kRow, w.data(), kEps, nullptr, q.data(), &s};
  time(
      "decoder.normalize", [](auto& t) -> auto& { return t.decoder.normalize; }, kRow, "float",
      [&](auto& k) { k.normalize(x.data(), nullptr, to); });
  time(
      "decoder.gate", [](auto& t) -> auto& { return t.decoder.gate; }, kRow, "float",
      [&](auto& k) { k.gate(x.data(), x.data(), rsr::Activation::silu, y.data(), to); });
  time(
      "decoder.rotate", [](auto& t) -> auto& { return t.decoder.rotate; }, kHead, "float",
      [&](auto& k) { k.rotate(x.data(), kHead, nullptr, kEps, cos.data(), sin.data(), 1.0f); });
  Chunk chunk(1, 4, kHead, kChunkPositions, true);
  std::vector<float> sums(4 * kHead), all(4 * kHead), statistics(4 * kStatistics, 1.0f);
  Guarded<float> scratch(chunk.scratch_size(1));
  const double products = 2.0 * 4 * kHead * kChunkPositions;
  time(
      "decoder.store", [](auto& t) -> auto& { return t.decoder.store; }, 2 * kHead, "float",
      [&](auto& k) {
        k.store(x.data(), x.data(), kHead, chunk.key_halves.data(), chunk.value_halves.data(),
                true);
      });
  time(
      "decoder.attend", [](auto& t) -> auto& { return t.decoder.attend; }, products, "MAC",
      [&](auto& k) { chunk.attend(k, 0, 1, scratch.data(), sums.data(), statistics.data()); });
  time(
      "decoder.combine", [](auto& t) -> auto& { return t.decoder.combine; }, 4 * kHead, "float",
      [&](auto& k) {
        k.combine(4, kHead, sums.data(), statistics.data(), all.data(), statistics.data());
      });
  time(
      "decoder.divide", [](auto& t) -> auto& { return t.decoder.divide; }, 4 * kHead, "float",
      [&](auto& k) { k.divide(4, kHead, sums.data(), statistics.data(), all.data()); });
}

}  // namespace

void check_decoder(Harness& harness) {
  for (size_t n : {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 515}) check_rows(harness, n);
  check_silu(harness);
  for (size_t d : {2, 4, 6, 30, 32, 34, 64, 100, 128}) check_rotate(harness, d);
  for (size_t d : {2, 14, 16, 18, 40, 128})
    for (size_t kind = 0; kind < kFloatKinds; kind++) check_store(harness, d, kind);
  // Rows and heads around tiles of 6, 4, 2 and 1 queries and around the many whose float16 is
  // converted first; positions around lanes, panels and the chunk.
  for (bool is_half : {false, true})
    for (size_t visible : {1, 2, 15, 16, 17, 63, 64, 65, 100, 127, 128, 300})
      for (size_t heads : {1, 2, 3, 5, 7}) {
        const size_t rows = pick<size_t>({1, 1, 2, 3, 4, 9, 20});
        check_attend(harness, rows, heads, pick<size_t>({2, 6, 16, 32, 40, 64, 100, 128}), visible,
                     is_half);
      }
  if (harness.is_bench) time_decoder(harness);
}

}  // namespace harness
