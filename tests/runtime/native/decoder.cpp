// Slots of the decoder: rows of activations, RoPE, the KV cache and attention, against float64.
#include <algorithm>

#include "decoder/attention.h"
#include "float16.h"
#include "harness.h"

namespace harness {
namespace {

using rsr::CacheType;
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

double twice_u(double x) { return 2 * std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x); }
double exact_gelu(double x) { return x / (1 + std::exp(-twice_u(x))); }

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
  const auto exact = [](rsr::Activation activation, double g) {
    return activation == rsr::Activation::silu        ? g / (1 + std::exp(-g))
           : activation == rsr::Activation::relu2     ? std::max(g, 0.0) * std::max(g, 0.0)
           : activation == rsr::Activation::gelu_tanh ? exact_gelu(g)
                                                      : 1 / (1 + std::exp(-g));
  };
  for (rsr::Activation activation : {rsr::Activation::silu, rsr::Activation::relu2,
                                     rsr::Activation::gelu_tanh, rsr::Activation::sigmoid})
    for (bool has_weight : {false, true}) {
      std::vector<float> gate = normals(n, 8);
      if (activation == rsr::Activation::gelu_tanh)  // its bound is wider below 0
        for (float& g : gate) g = std::fabs(g);
      const std::vector<float> up = normals(n);
      std::vector<double> h(n);
      for (size_t i = 0; i < n; i++) h[i] = up[i] * exact(activation, gate[i]);
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

// An activation over its whole range: 40,000 steps from `first` on, and numbers down to 1e-37.
// check(x, y, i): checks the value y of x. `lowest`: a number whose value is 0.
template <class Check>
void check_range(Harness& harness, rsr::Activation activation, float first, float step,
                 float lowest, const char* special_name, const Check& check) {
  std::vector<float> x;
  for (int i = 0; i <= 40000; i++) x.push_back(first + step * static_cast<float>(i));
  for (int i = 0; i < 4000; i++)
    x.push_back(std::pow(10.0f, -37 + 0.01f * static_cast<float>(i) / 2) * (i % 2 ? 1.0f : -1.0f));
  const std::vector<float> ones(x.size(), 1.0f);
  harness.each(
      "decoder.gate", [](const rsr::KernelTable& t) -> auto& { return t.decoder.gate; },
      [&](auto gate, const Table&) {
        Guarded<float> h(x.size());
        gate(x.data(), ones.data(), activation, h.data(),
             {x.size(), nullptr, 0, h.data(), nullptr, nullptr});
        for (size_t i = 0; i < x.size(); i++) check(x[i], h[i], i);
        constexpr float kInfinity = std::numeric_limits<float>::infinity();
        const float special[4] = {std::numeric_limits<float>::quiet_NaN(), kInfinity, -kInfinity,
                                  lowest};
        const double nan = special[0];
        const double expected[4] = {nan, kInfinity, nan, 0};
        gate(special, ones.data(), activation, h.data(),
             {4, nullptr, 0, h.data(), nullptr, nullptr});
        for (size_t i = 0; i < 4; i++) expect(h[i], expected[i], 0, special_name, i);
      });
}

// Within 4 ulp down to where e^x is denormal, then 0.
void check_silu(Harness& harness) {
  check_range(harness, rsr::Activation::silu, -87.33f, 0.0044f, -1000, "silu, special",
              [](double v, float found, size_t i) {
                const double expected = v / (1 + std::exp(-v));
                expect(found, v < -87.33654 ? 0 : expected, 4 * kUlp * std::fabs(expected), "silu",
                       i);
              });
}

// As row_kernels.h says, and 0 where the exponential is.
void check_gelu(Harness& harness) {
  check_range(harness, rsr::Activation::gelu_tanh, -12.0f, 0.0006f, -1e30f, "gelu_tanh, special",
              [](float v, float found, size_t i) {
                const double expected = exact_gelu(v), u2 = std::max(0.0, -twice_u(v));
                if (std::fabs(u2 - 87.33654) < 1e-3) return;  // 0 or not
                expect(found, u2 > 87.33654 ? 0 : expected,
                       (4 + 4 * u2) * kUlp * std::fabs(expected), "gelu_tanh", i);
              });
}

void check_rotate(Harness& harness, size_t d, size_t half) {
  const std::vector<float> x = normals(d), weight = normals(d);
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
          rotate(y.data(), d, half, w, kEps, cos.data(), sin.data(), 0.125f);
          y.check_guards();
          for (size_t i = 0; i < half; i++) {
            const double a = norm[i], b = norm[half + i];
            const double bound =
                (has_weight ? 10 : 4) * kUlp / 8 * (std::fabs(a) + std::fabs(b)) + 1e-37;
            expect(y[i], 0.125 * (a * cos[i] - b * sin[i]), bound, "first half", i, d);
            expect(y[half + i], 0.125 * (b * cos[i] + a * sin[i]), bound, "second half", i, d);
          }
          for (size_t i = 2 * half; i < d; i++)
            expect(y[i], 0.125 * norm[i], (has_weight ? 10 : 0) * kUlp / 8 * std::fabs(norm[i]),
                   "not rotated", i, d);
        });
  }
}

constexpr const char* kAttendSlots[] = {"decoder.f32", "decoder.f16", "decoder.i8"};

const rsr::CacheKernels& cache_kernels(const rsr::KernelTable& t, CacheType type) {
  return type == CacheType::float32   ? t.decoder.f32
         : type == CacheType::float16 ? t.decoder.f16
                                      : t.decoder.i8;
}

// Calls check(kernels, table) on every set that fills the kernels of a type anew.
template <class Check>
void each_cache(Harness& harness, CacheType type, const Check& check) {
  harness.each(
      kAttendSlots[static_cast<int>(type)],
      [type](const rsr::KernelTable& t) -> auto& { return cache_kernels(t, type); },
      [&](const rsr::CacheKernels& kernels, const Table& table) { check(kernels, table); });
}

template <class Cell>
Cell cell_of(float x) {
  if constexpr (std::is_same_v<Cell, uint16_t>)
    return rsr::to_half(x);
  else
    return static_cast<Cell>(x);
}
template <class Cell>
float float_of(Cell x) {
  if constexpr (std::is_same_v<Cell, uint16_t>)
    return rsr::from_half(x);
  else
    return static_cast<float>(x);
}

template <class Cell>
void check_store(Harness& harness, CacheType type, size_t d, size_t kind) {
  const std::vector<float> k = float_inputs(d, kind), v = float_inputs(d, kind);
  const size_t dv = rsr::whole_lanes(d);
  each_cache(harness, type, [&](const rsr::CacheKernels& kernels, const Table&) {
    Guarded<Cell> block(d * kLanes, Cell{7}), values(dv, Cell{7});
    Guarded<float> scales(2, 7.0f);
    kernels.store(k.data(), v.data(), d,
                  {block.data() + 3, values.data(), scales.data(), scales.data() + 1});
    block.check_guards();
    values.check_guards();
    scales.check_guards();
    const auto expect_cell = [&](Cell found, const std::vector<float>& from, size_t i,
                                 float scale) {
      if (type != CacheType::int8) {
        expect(float_of(found), float_of(cell_of<Cell>(from[i])), 0, "cell", i);
      } else if (std::isfinite(scale)) {  // half a step, and the rounding of 127 / most
        const double exact = scale == 0 ? 0 : static_cast<double>(from[i]) / scale;
        expect(found, exact, 0.5 + 1e-4, "cell", i);
      }
    };
    const auto expect_scale = [&](float found, const std::vector<float>& from) {
      double most = 0;
      bool is_finite = true;
      for (float x : from)
        is_finite = is_finite && std::isfinite(x), most = std::max<double>(most, std::fabs(x));
      if (!is_finite) most = std::numeric_limits<double>::quiet_NaN();
      if (most < 1e-30) most = 0;
      expect(found, most / 127, kUlp * most / 127, "scale", d);
    };
    if (type == CacheType::int8) {
      expect_scale(scales[0], k);
      expect_scale(scales[1], v);
    } else {
      expect(scales[0], 7, 0, "scale", 0);
      expect(scales[1], 7, 0, "scale", 1);
    }
    for (size_t i = 0; i < block.size(); i++) {
      if (i % kLanes == 3)
        expect_cell(block[i], k, i / kLanes, scales[0]);
      else
        expect(float_of(block[i]), float_of(Cell{7}), 0, "lane of another position", i);
    }
    for (size_t i = 0; i < dv; i++) {
      if (i < d)
        expect_cell(values[i], v, i, scales[1]);
      else
        expect(float_of(values[i]), 0, 0, "padding", i);
    }
  });
}

// A chunk of a cache, with NaN where no query looks: in int8 as scales.
template <class Cell>
struct Chunk {
  size_t rows, heads, d, dv, visible, window, seen, unseen;  // positions [unseen, seen)
  std::vector<float> queries, keys, values;                  // as they are in the cache
  Guarded<Cell> key_cells, value_cells;
  Guarded<float> key_scales, value_scales;

  Chunk(size_t rows, size_t heads, size_t d, size_t visible, size_t window = SIZE_MAX)
      : rows(rows),
        heads(heads),
        d(d),
        dv(rsr::whole_lanes(d)),
        visible(visible),
        window(window),
        seen(std::min(kChunkPositions, visible + rows - 1)),
        unseen(visible > window ? visible - window : 0),
        queries(normals(rows * heads * d, 1 / std::sqrt(static_cast<double>(d)))),
        keys(kChunkPositions * d),
        values(kChunkPositions * dv),
        key_cells(kChunkPositions * d),
        value_cells(kChunkPositions * dv),
        key_scales(kChunkPositions),
        value_scales(kChunkPositions) {
    constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
    constexpr bool kIsInt8 = std::is_same_v<Cell, int8_t>;
    for (size_t p = 0; p < kChunkPositions; p++) {
      const bool is_seen = unseen <= p && p < seen;
      key_scales[p] = is_seen ? 0.02f * (1 + static_cast<float>(uniform())) : kNan;
      value_scales[p] = is_seen ? 0.01f * (1 + static_cast<float>(uniform())) : kNan;
      const auto cell = [&](float x) {
        if constexpr (kIsInt8) return static_cast<Cell>(static_cast<int>(below(255)) - 127);
        return cell_of<Cell>(is_seen ? x : kNan);
      };
      for (size_t c = 0; c < d; c++) {
        const Cell key = cell(2 * normal());
        key_cells[(p / kLanes * d + c) * kLanes + p % kLanes] = key;
        keys[p * d + c] = float_of(key) * (kIsInt8 ? key_scales[p] : 1.0f);
      }
      for (size_t c = 0; c < dv; c++) {
        const Cell value = c < d ? cell(normal()) : cell_of<Cell>(is_seen ? 0 : kNan);
        value_cells[p * dv + c] = value;
        values[p * dv + c] = float_of(value) * (kIsInt8 ? value_scales[p] : 1.0f);
      }
    }
  }

  // Rows [first, first + count).
  void attend(const rsr::CacheKernels& kernels, size_t first, size_t count, float* sums,
              float* statistics, bool combines = false) {
    Guarded<char> scratch(kernels.scratch_bytes(count * heads, d));
    attend(kernels, first, count, scratch.data(), sums, statistics, combines);
    scratch.check_guards();
  }
  void attend(const rsr::CacheKernels& kernels, size_t first, size_t count, void* scratch,
              float* sums, float* statistics, bool combines = false) {
    kernels.attend({queries.data() + first * heads * d, heads * d, count, heads, d, visible + first,
                    window, key_cells.data(), value_cells.data(), key_scales.data(),
                    value_scales.data(), scratch, sums, statistics, combines});
  }
};

template <class Cell>
void check_attend(Harness& harness, CacheType type, size_t rows, size_t heads, size_t d,
                  size_t visible, size_t window) {
  Chunk<Cell> chunk(rows, heads, d, visible, window);
  const size_t queries = rows * heads, dv = chunk.dv;
  each_cache(harness, type, [&](const rsr::CacheKernels& kernels, const Table& table) {
    Guarded<float> sums(queries * dv, 12345.0f), statistics(queries * kStatistics, 12345.0f);
    chunk.attend(kernels, 0, rows, sums.data(), statistics.data());
    sums.check_guards();
    statistics.check_guards();
    for (size_t j = 0; j < queries; j++) {
      const size_t before = visible + j / heads, seen = std::min(kChunkPositions, before);
      const size_t unseen = before > window ? before - window : 0;
      const float* q = chunk.queries.data() + j * d;
      std::vector<double> scores(seen);
      double worst = 0, maximum = -1e300, total = 0;
      for (size_t p = unseen; p < seen; p++) {
        double magnitude = 0;
        for (size_t c = 0; c < d; c++) {
          const double product = static_cast<double>(q[c]) * chunk.keys[p * d + c];
          scores[p] += product;
          magnitude += std::fabs(product);
        }
        worst = std::max(worst, magnitude);
        maximum = std::max(maximum, scores[p]);
      }
      const double off = static_cast<double>(d + 2) * std::ldexp(1.0, -24) * worst;  // of a score
      expect(statistics[j * kStatistics + kMaximum], maximum, off, "maximum", j);
      // exp of two scores, each off; 4 ulp of exp; a sum of `seen`; the product with values.
      const double relative = 2 * off + (6 + static_cast<double>(seen) / 2) * kUlp;
      std::vector<double> mixed(dv), magnitudes(dv);
      for (size_t p = unseen; p < seen; p++) {
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
    // Any rows alone give the same bits.
    const size_t row = below(rows), count = 1 + below(rows - row);
    Guarded<float> alone(count * heads * dv), its(count * heads * kStatistics);
    chunk.attend(kernels, row, count, alone.data(), its.data());
    expect_same_bits(alone.data(), sums.data() + row * heads * dv, count * heads * dv,
                     "sums of some rows");
    expect_same_bits(its.data(), statistics.data() + row * heads * kStatistics,
                     count * heads * kStatistics, "statistics of some rows");
    // Combined by the kernel and afterwards.
    Guarded<float> all(queries * dv), of_all(queries * kStatistics);
    for (size_t i = 0; i < queries * dv; i++) all.data()[i] = normal();
    for (size_t i = 0; i < queries * kStatistics; i++) of_all.data()[i] = 1 + std::fabs(normal());
    std::vector<float> expected(all.data(), all.data() + queries * dv);
    std::vector<float> of_expected(of_all.data(), of_all.data() + queries * kStatistics);
    table.kernels.decoder.combine(queries, dv, sums.data(), statistics.data(), expected.data(),
                                  of_expected.data());
    chunk.attend(kernels, 0, rows, all.data(), of_all.data(), true);
    expect_same_bits(all.data(), expected.data(), queries * dv, "combined sums");
    expect_same_bits(of_all.data(), of_expected.data(), queries * kStatistics,
                     "combined statistics");
  });
}

// What is not finite reaches the rows that see it, and no others.
template <class Cell>
void check_not_finite(Harness& harness, CacheType type) {
  constexpr size_t kRows = 40, kHead = 40, kVisible = 30, kKey = 35, kValue = 50, kColumn = 5;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Chunk<Cell> chunk(kRows, 1, kHead, kVisible);
  for (size_t i = 0; i < kRows; i++) chunk.queries[i * kHead] = i % 2 ? 1.5f : -1.5f;
  chunk.key_cells[kKey / kLanes * kHead * kLanes + kKey % kLanes] = cell_of<Cell>(-kInfinity);
  chunk.value_cells[kValue * chunk.dv + kColumn] = cell_of<Cell>(kInfinity);
  const Chunk<Cell> without(kRows, 1, kHead, kVisible);
  each_cache(harness, type, [&](const rsr::CacheKernels& kernels, const Table&) {
    Guarded<float> sums(kRows * chunk.dv), statistics(kRows * kStatistics);
    chunk.attend(kernels, 0, kRows, sums.data(), statistics.data());
    for (size_t i = 0; i < kRows; i++) {
      const size_t seen = kVisible + i;
      const bool sees_plus_infinity = seen > kKey && i % 2 == 0;  // its weights are NaN
      for (size_t c = 0; c < kHead; c++) {
        const float found = sums[i * chunk.dv + c];
        const bool sees_value = seen > kValue && c == kColumn;
        if (sees_plus_infinity ? !std::isnan(found)
            : sees_value       ? found != kInfinity
                               : !std::isfinite(found))
          throw std::runtime_error("infinity is not where it belongs");
      }
    }
  });
}

void check_combine(Harness& harness, size_t queries, size_t d) {
  const size_t dv = rsr::whole_lanes(d);
  // Two chunks combined, then divided.
  std::vector<float> first = normals(queries * dv);
  first[0] = -0.0f;
  const std::vector<float> second = normals(queries * dv);
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
            if (out[j * d + c] == 0 && std::signbit(out[j * d + c]))
              throw std::runtime_error("a zero with a sign");
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
      [&](auto& k) {
        k.rotate(x.data(), kHead, kHead / 2, nullptr, kEps, cos.data(), sin.data(), 1.0f);
      });
  std::vector<float> sums(4 * kHead), all(4 * kHead), statistics(4 * kStatistics, 1.0f);
  const double products = 2.0 * 4 * kHead * kChunkPositions;
  const auto time_attend = [&](CacheType type, auto&& chunk) {
    std::vector<char> scratch(1 << 20);
    time(
        kAttendSlots[static_cast<int>(type)],
        [type](auto& t) -> auto& { return cache_kernels(t, type); }, products, "MAC",
        [&](const rsr::DecoderKernels& k) {
          const rsr::CacheKernels& kernels = type == CacheType::float32   ? k.f32
                                             : type == CacheType::float16 ? k.f16
                                                                          : k.i8;
          chunk.attend(kernels, 0, 1, scratch.data(), sums.data(), statistics.data());
        });
  };
  time_attend(CacheType::float32, Chunk<float>(1, 4, kHead, kChunkPositions));
  time_attend(CacheType::float16, Chunk<uint16_t>(1, 4, kHead, kChunkPositions));
  time_attend(CacheType::int8, Chunk<int8_t>(1, 4, kHead, kChunkPositions));
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
  check_gelu(harness);
  for (size_t d : {2, 4, 6, 30, 32, 34, 64, 100, 128})
    for (size_t half : {d / 2, d / 4, d / 8, size_t{0}}) check_rotate(harness, d, half);
  for (size_t d : {2, 14, 16, 18, 40, 128})
    for (size_t kind = 0; kind < kFloatKinds; kind++) {
      check_store<float>(harness, CacheType::float32, d, kind);
      check_store<uint16_t>(harness, CacheType::float16, d, kind);
      check_store<int8_t>(harness, CacheType::int8, d, kind);
    }
  check_not_finite<float>(harness, CacheType::float32);
  check_not_finite<uint16_t>(harness, CacheType::float16);
  // Rows and heads around tiles of queries and around the many whose cells are converted first;
  // positions around lanes, steps of tiles, panels and the chunk; windows that hide some of them.
  for (size_t visible : {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 300})
    for (size_t heads : {1, 2, 3, 5, 7}) {
      const size_t rows = pick<size_t>({1, 1, 2, 3, 4, 9, 20, 40});
      const size_t d = pick<size_t>({2, 6, 16, 32, 40, 64, 100, 128});
      // A window hides positions, but not all.
      const size_t least = visible + rows > kChunkPositions ? visible + rows - kChunkPositions : 1;
      const size_t window = below(2) ? SIZE_MAX : least + below(80);
      check_attend<float>(harness, CacheType::float32, rows, heads, d, visible, window);
      check_attend<uint16_t>(harness, CacheType::float16, rows, heads, d, visible, window);
      check_attend<int8_t>(harness, CacheType::int8, rows, heads, d, visible, window);
      check_combine(harness, rows * heads, d);
    }
  if (harness.is_bench) time_decoder(harness);
}

}  // namespace harness
