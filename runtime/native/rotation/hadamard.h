// The fast Walsh-Hadamard transform in vectors of kLanes floats. Included by hadamard_<isa>.cpp
// after its Lanes, load, store, add, sub, mul, butterflies_within and kRadix, the vectors that it
// keeps in registers.
//
// A transform of 2^m numbers takes m levels of butterflies (a + b, a - b) of numbers 1, 2, 4, ...
// apart: m additions for each number instead of 2^m. The levels below kLanes are shuffles within a
// vector; each pass over a block computes log2(kRadix) of the others, so that a block of 1024 is
// read and written twice with kRadix = 16.
//
// Error. The factors round to 2^-24, as does the product with one, unless 2^m is a power of four;
// each level rounds once. To first order |error| <= (m + 2) 2^-24 2^(-m/2) sum |x_i| over the
// block. Every set adds the same numbers in the same order, so the bits are the same on all of
// them.
#pragma once
#include "table.h"

namespace rsr {
namespace {

// The butterflies of R vectors, neighbors first.
template <int R>
inline void butterflies(Lanes* v) {
  if constexpr (R > 1) {
    butterflies<R / 2>(v);
    butterflies<R / 2>(v + R / 2);
    for (int i = 0; i < R / 2; i++) {
      const Lanes a = v[i], b = v[i + R / 2];
      v[i] = add(a, b);
      v[i + R / 2] = sub(a, b);
    }
  }
}

// Calls body(vectors at once, as a constant) with the largest power of two up to kRadix and `most`,
// which is a power of two.
template <int R = kRadix, class Body>
inline void with_radix(size_t most, const Body& body) {
  if constexpr (R > 1) {
    if (most < R) return with_radix<R / 2>(most, body);
  }
  body(std::integral_constant<int, R>());
}

struct Load {
  Lanes operator()(const float* x, size_t i) const { return load(x + i); }
};
struct LoadScaled {
  const float* factors;
  Lanes operator()(const float* x, size_t i) const { return mul(load(x + i), load(factors + i)); }
};
struct Store {
  void operator()(float* y, size_t i, Lanes v) const { store(y + i, v); }
};
struct StoreScaled {
  const float* factors;
  void operator()(float* y, size_t i, Lanes v) const { store(y + i, mul(v, load(factors + i))); }
};

// y = H x of one block. The first pass reads x, the last writes as `put` does.
template <class Get, class Put>
inline void transform_block(const float* x, float* y, size_t block, const Get& get,
                            const Put& put) {
  size_t h = kLanes;
  with_radix(block / kLanes, [&](auto radix) {
    constexpr int R = radix;
    h *= R;
    const bool is_last = h == block;
    for (size_t i = 0; i < block; i += R * kLanes) {
      Lanes v[R];
      for (int j = 0; j < R; j++) v[j] = butterflies_within(get(x, i + j * kLanes));
      butterflies<R>(v);
      for (int j = 0; j < R; j++)
        is_last ? put(y, i + j * kLanes, v[j]) : store(y + i + j * kLanes, v[j]);
    }
  });
  while (h < block)
    with_radix(block / h, [&](auto radix) {
      constexpr int R = radix;
      const size_t apart = h;
      h *= R;
      const bool is_last = h == block;
      for (size_t first = 0; first < block; first += h)
        for (size_t i = first; i < first + apart; i += kLanes) {
          Lanes v[R];
          for (int j = 0; j < R; j++) v[j] = load(y + i + j * apart);
          butterflies<R>(v);
          for (int j = 0; j < R; j++)
            is_last ? put(y, i + j * apart, v[j]) : store(y + i + j * apart, v[j]);
        }
    });
}

void forward(const float* x, const float* factors, size_t n, size_t block, float* y) {
  for (size_t i = 0; i < n; i += block)
    transform_block(x + i, y + i, block, LoadScaled{factors + i}, Store{});
}

void inverse(const float* x, const float* factors, size_t n, size_t block, float* y) {
  for (size_t i = 0; i < n; i += block)
    transform_block(x + i, y + i, block, Load{}, StoreScaled{factors + i});
}

constexpr HadamardKernels kHadamard = {forward, inverse};

}  // namespace
}  // namespace rsr
