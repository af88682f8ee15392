// Rows of activations in kLanes lanes: norms, activation functions, quantization, RoPE. Included by
// decoder_<isa>.cpp after its Lanes.
#pragma once
#include <cmath>
#include <cstring>
#include <limits>

#include "decoder/exponential.h"
#include "table.h"

namespace rsr {
namespace {

// Calls body(offset, vector) for n floats, kLanes at a time, then for the rest.
struct WholeVector {
  Lanes load(const float* p) const { return rsr::load(p); }
  void store(float* p, Lanes a) const { rsr::store(p, a); }
  void store_i8(int8_t* p, Lanes a) const { rsr::store_i8(p, a); }
};
struct PartOfVector {
  size_t n;
  Lanes load(const float* p) const { return load_part(p, n); }
  void store(float* p, Lanes a) const { store_part(p, a, n); }
  void store_i8(int8_t* p, Lanes a) const { rsr::store_i8(p, a, n); }
};

template <class Body>
inline void for_each_vector(size_t n, const Body& body) {
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, WholeVector{});
  if (i < n) body(i, PartOfVector{n - i});
}

// 1 / (1 + e^-x), with exponentials of negative numbers only, which do not overflow.
inline Lanes sigmoid(Lanes x) {
  const Lanes one = broadcast(1.0f), e = exp_of_negative(negative_abs(x));
  return div(where_negative(x, e, one), add(one, e));
}

inline Lanes silu(Lanes x) { return mul(x, sigmoid(x)); }

// x / 2 (1 + tanh(u)), u = sqrt(2 / pi) (x + 0.044715 x^3), which is x sigmoid(2 u). The
// exponential has the relative error of 2 u, a few ulp, times |2 u|; so a result is within 4 ulp of
// it for x >= 0, and within 4 + 4 |2 u| ulp below.
inline Lanes gelu_tanh(Lanes x) {
  constexpr float kTwice = 1.59576912f, kCubic = 0.071354814f;  // 2 sqrt(2 / pi), that * 0.044715
  return mul(x, sigmoid(mul(x, fma(mul(x, x), broadcast(kCubic), broadcast(kTwice)))));
}

inline Lanes relu2(Lanes x) {
  const Lanes positive = max(broadcast(0.0f), x);  // NaN stays
  return mul(positive, positive);
}

// Sums of squares in four vectors in turn, so that no addition waits for the one before.
struct SumOfSquares {
  Lanes parts[4] = {broadcast(0.0f), broadcast(0.0f), broadcast(0.0f), broadcast(0.0f)};

  void add_vector(size_t number, Lanes x) {
    Lanes& part = parts[number % 4];
    part = fma(x, x, part);
  }
  float total() const { return sum(add(add(parts[0], parts[1]), add(parts[2], parts[3]))); }
};

inline float inverse_rms(float sum_of_squares, size_t n, float eps) {
  return 1.0f / std::sqrt(sum_of_squares / static_cast<float>(n) + eps);
}

// A group with smaller magnitudes is 0: its step would not be a normal number, and 127 over its
// largest magnitude might be infinite.
constexpr float kLeastMagnitude = 0x1p-119f;

// s of quantize_i8 (activations.h).
inline float scale_for_i8(float largest) {
  if (!(largest <= std::numeric_limits<float>::max()))
    return std::numeric_limits<float>::quiet_NaN();
  return 127.0f * (1.0f / (largest > 1e-5f ? largest : 1e-5f));
}

// Writes columns [begin, begin + n) of the row h, which are a group, and their step.
template <class Row>
inline void write_group(const RowOutput& to, const Row& h, size_t begin, size_t n, float* step) {
  Magnitudes magnitudes = no_magnitudes();
  for_each_vector(n, [&](size_t i, auto vector) {
    const Lanes x = h(begin + i, vector);
    magnitudes = larger(magnitudes, x);
    if (to.out) vector.store(to.out + begin + i, x);
  });
  const float m = largest(magnitudes);
  if (!(kLeastMagnitude <= m && m <= std::numeric_limits<float>::max())) {
    *step = m < kLeastMagnitude ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    std::memset(to.q + begin, 0, n);
    return;
  }
  *step = m / 127.0f;
  const Lanes inverse = broadcast(127.0f / m);
  for_each_vector(n, [&](size_t i, auto vector) {
    const Lanes x = to.out ? vector.load(to.out + begin + i) : h(begin + i, vector);
    vector.store_i8(to.q + begin + i, mul(x, inverse));
  });
}

// Writes the row whose vectors are h(offset, vector).
template <class Row>
inline void write_row(const RowOutput& to, const Row& h) {
  if (to.q && to.group_columns) {
    for (size_t g = 0; g < scale_count(to); g++) {
      const size_t begin = g * to.group_columns;
      write_group(to, h, begin, min(to.group_columns, to.n - begin), to.s + g);
    }
    return;
  }
  Magnitudes magnitudes = no_magnitudes();
  for_each_vector(to.n, [&](size_t i, auto vector) {
    const Lanes x = h(i, vector);
    magnitudes = larger(magnitudes, x);
    if (to.out) vector.store(to.out + i, x);
  });
  if (!to.q) return;
  *to.s = scale_for_i8(largest(magnitudes));
  if (std::isnan(*to.s)) {
    std::memset(to.q, 0, to.n);
    return;
  }
  const Lanes s = broadcast(*to.s);
  for_each_vector(to.n, [&](size_t i, auto vector) {
    // `out` may alias the input of h, which is then overwritten.
    vector.store_i8(to.q + i, mul(to.out ? vector.load(to.out + i) : h(i, vector), s));
  });
}

inline void write_normalized(const float* x, float sum_of_squares, const RowOutput& to) {
  if (!to.weight) {
    write_row(to, [=](size_t i, auto vector) { return vector.load(x + i); });
    return;
  }
  const Lanes inverse = broadcast(inverse_rms(sum_of_squares, to.n, to.eps));
  write_row(to, [=, &to](size_t i, auto vector) {
    return mul(mul(vector.load(x + i), inverse), vector.load(to.weight + i));
  });
}

void normalize(float* x, const float* add_to_x, const RowOutput& to) {
  SumOfSquares squares;
  if (add_to_x) {
    for_each_vector(to.n, [&](size_t i, auto vector) {
      const Lanes sum = add(vector.load(x + i), vector.load(add_to_x + i));
      vector.store(x + i, sum);
      squares.add_vector(i / kLanes, sum);
    });
  } else if (to.weight) {
    for_each_vector(
        to.n, [&](size_t i, auto vector) { squares.add_vector(i / kLanes, vector.load(x + i)); });
  }
  write_normalized(x, squares.total(), to);
}

template <class Function>
inline void gate_by(const float* gate, const float* up, float* h, const RowOutput& to,
                    const Function& function) {
  SumOfSquares squares;
  for_each_vector(to.n, [&](size_t i, auto vector) {
    const Lanes x = mul(function(vector.load(gate + i)), vector.load(up + i));
    vector.store(h + i, x);
    squares.add_vector(i / kLanes, x);
  });
  write_normalized(h, squares.total(), to);
}

void gate_row(const float* gate, const float* up, Activation activation, float* h,
              const RowOutput& to) {
  switch (activation) {
    case Activation::silu:
      gate_by(gate, up, h, to, [](Lanes x) { return silu(x); });
      return;
    case Activation::relu2:
      gate_by(gate, up, h, to, [](Lanes x) { return relu2(x); });
      return;
    case Activation::gelu_tanh:
      gate_by(gate, up, h, to, [](Lanes x) { return gelu_tanh(x); });
      return;
    case Activation::sigmoid:
      gate_by(gate, up, h, to, [](Lanes x) { return sigmoid(x); });
      return;
  }
}

void rotate(float* x, size_t d, size_t half, const float* weight, float eps, const float* cos,
            const float* sin, float scale) {
  if (weight) normalize(x, nullptr, {d, weight, eps, x, nullptr, nullptr});
  const Lanes by = broadcast(scale), minus = broadcast(-1.0f);
  for_each_vector(half, [&](size_t i, auto vector) {
    const Lanes c = vector.load(cos + i), s = vector.load(sin + i);
    const Lanes x1 = vector.load(x + i), x2 = vector.load(x + half + i);
    vector.store(x + i, mul(fma(x1, c, mul(minus, mul(x2, s))), by));
    vector.store(x + half + i, mul(fma(x2, c, mul(x1, s)), by));
  });
  float* rest = x + 2 * half;
  for_each_vector(d - 2 * half, [&](size_t i, auto vector) {
    vector.store(rest + i, mul(vector.load(rest + i), by));
  });
}

}  // namespace
}  // namespace rsr
