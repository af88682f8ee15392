// Bindings of what a decoder does between its products. They check every shape.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <cmath>
#include <optional>
#include <string>

#include "bindings/program.h"
#include "decoder/activations.h"
#include "decoder/attention.h"

using namespace nb::literals;

namespace {

template <class T, int N>
using Maybe = std::optional<Array<T, N>>;

using Rows = Array<float, 2>;
using Weight = Maybe<const float, 1>;

template <class Given>
auto pointer(const std::optional<Given>& array) {
  return array ? array->data() : nullptr;
}

template <class Given>
bool has_shape(const std::optional<Given>& array, size_t rows, size_t n) {
  return !array || (array->shape(0) == rows && array->shape(1) == n);
}

// What rows become, and the arrays for it.
struct Output {
  rsr::RowOutput to;
  Weight weight;
  Maybe<float, 2> out;
  Maybe<int8_t, 2> q;
  Maybe<float, 2> s;
};

Output row_output(size_t count, size_t n, const Weight& weight, float eps,
                  const Maybe<float, 2>& out, const Maybe<int8_t, 2>& q, const Maybe<float, 2>& s) {
  require(!weight || weight->shape(0) == n, "weight must have an entry for each of a row");
  require(has_shape(out, count, n) && has_shape(q, count, n),
          "out and q must have the shape of the rows");
  require(q.has_value() == s.has_value() && has_shape(s, count, 1),
          "q and s go together, and s must be (count, 1)");
  require(out || q, "one of out and (q, s) must be given");
  const rsr::RowOutput to = {n, pointer(weight), eps, pointer(out), pointer(q), pointer(s)};
  return {to, weight, out, q, s};
}

rsr::Activation activation_named(const std::string& name) {
  if (name == "silu") return rsr::Activation::silu;
  if (name == "relu2") return rsr::Activation::relu2;
  throw std::invalid_argument("unknown activation '" + name + "'; there are silu, relu2");
}

auto normalize(const Rows& x, const Maybe<const float, 2>& add, const Weight& weight, float eps,
               const Maybe<float, 2>& out, const Maybe<int8_t, 2>& q, const Maybe<float, 2>& s) {
  const size_t count = x.shape(0), n = x.shape(1);
  require(has_shape(add, count, n), "add must have the shape of x");
  const Output output = row_output(count, n, weight, eps, out, q, s);
  return [=] { rsr::normalize(x.data(), pointer(add), count, output.to); };
}

auto gated(const Array<const float, 2>& gate, const Array<const float, 2>& up,
           const std::string& activation, const Weight& weight, float eps,
           const Maybe<float, 2>& out, const Maybe<int8_t, 2>& q, const Maybe<float, 2>& s) {
  const size_t count = gate.shape(0), n = gate.shape(1);
  require(up.shape(0) == count && up.shape(1) == n, "up must have the shape of gate");
  const rsr::Activation function = activation_named(activation);
  const Output output = row_output(count, n, weight, eps, out, q, s);
  return [=] { rsr::gated(gate.data(), up.data(), function, count, output.to); };
}

template <class Cell>
auto attend(const Array<float, 3>& q, const Array<float, 3>& k, const Array<const float, 3>& v,
            const Array<const float, 2>& cos, const Array<const float, 2>& sin,
            const Weight& q_norm, const Weight& k_norm, float eps, const Array<Cell, 4>& keys,
            const Array<Cell, 3>& values, const Array<const int64_t, 1>& start, float scale,
            const Rows& out) {
  const size_t rows = q.shape(0), d = q.shape(2), blocks = keys.shape(1);
  const rsr::Heads heads = {q.shape(1), k.shape(1), d};
  require(d > 0 && d % 2 == 0, "a head must have an even number of dimensions");
  require(heads.keys > 0 && heads.queries > 0 && heads.queries % heads.keys == 0,
          "the heads of q must be a multiple of those of k");
  require(k.shape(0) == rows && k.shape(2) == d, "k must be (rows of q, key heads, d)");
  require(v.shape(0) == rows && v.shape(1) == heads.keys && v.shape(2) == d,
          "v must have the shape of k");
  require(out.shape(0) == rows && out.shape(1) == heads.queries * d,
          "out must be (rows of q, heads * d)");
  require((!q_norm || q_norm->shape(0) == d) && (!k_norm || k_norm->shape(0) == d),
          "q_norm and k_norm must be (d,)");
  require(keys.shape(0) == heads.keys && keys.shape(2) == d && keys.shape(3) == rsr::kLanes,
          "keys must be (key heads, blocks, d, 16)");
  require(values.shape(0) == heads.keys && values.shape(1) == blocks * rsr::kLanes &&
              values.shape(2) == rsr::whole_lanes(d),
          "values must be (key heads, blocks * 16, d rounded up to a multiple of 16)");
  require(cos.shape(1) == d / 2 && sin.shape(1) == d / 2 && cos.shape(0) == sin.shape(0),
          "cos and sin must be (context, d / 2)");
  require(start.shape(0) == 1, "start must be one number");
  return [=] {
    // A program is recorded once for all positions, so that they are read, and checked, here.
    const size_t first = static_cast<size_t>(*start.data()), size = blocks * rsr::kLanes;
    require(first <= size && rows <= size - first, "the rows reach beyond the cache");
    require(first + rows <= cos.shape(0), "the rows reach beyond the positions of cos and sin");
    const rsr::Positions positions = {cos.data(), sin.data(), pointer(q_norm), pointer(k_norm),
                                      eps};
    const rsr::AttentionCache cache = {keys.data(), values.data(), blocks, sizeof(Cell) == 2};
    rsr::attend(q.data(), k.data(), v.data(), rows, first, heads, positions, cache, scale,
                out.data());
  };
}

template <class Cell>
void bind_attend(nb::module_& m, nb::class_<Program>& program) {
  bind_step(m, program, "attend", &attend<Cell>, "q"_a.noconvert(), "k"_a.noconvert(), "v"_a,
            "cos"_a, "sin"_a, "q_norm"_a.none(), "k_norm"_a.none(), "eps"_a, "keys"_a.noconvert(),
            "values"_a.noconvert(), "start"_a.noconvert(), "scale"_a, "out"_a.noconvert());
}

}  // namespace

void bind_decoder(nb::module_& m, nb::class_<Program>& program) {
  bind_step(m, program, "normalize", &normalize, "x"_a.noconvert(), "add"_a.none(),
            "weight"_a.none(), "eps"_a, "out"_a.noconvert().none(), "q"_a.noconvert().none(),
            "s"_a.noconvert().none());
  bind_step(m, program, "gated", &gated, "gate"_a, "up"_a, "activation"_a, "weight"_a.none(),
            "eps"_a, "out"_a.noconvert().none(), "q"_a.noconvert().none(),
            "s"_a.noconvert().none());
  bind_attend<float>(m, program);
  bind_attend<uint16_t>(m, program);
}
