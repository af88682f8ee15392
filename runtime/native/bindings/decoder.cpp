// Bindings of what a decoder computes between its products. They check every shape.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "bindings/program.h"
#include "decoder/activations.h"
#include "decoder/attention.h"
#include "decoder/delta_net.h"
#include "decoder/low_rank.h"
#include "rotation/rotation.h"

using namespace nb::literals;

namespace {

using Rows = Array<float, 2>;
using Scales = Array<float, 2>;
using Weight = Maybe<const float, 1>;

template <class Given>
bool has_shape(const std::optional<Given>& array, size_t rows, size_t n) {
  return !array || (array->shape(0) == rows && array->shape(1) == n);
}

// A RowOutput and the arrays that it points to.
struct Output {
  rsr::RowOutput to;
  Weight weight;
  Maybe<float, 2> out;
  Maybe<int8_t, 2> q;
  Maybe<float, 2> s;
};

Output row_output(size_t count, size_t n, const Weight& weight, float eps,
                  const Maybe<float, 2>& out, const Maybe<int8_t, 2>& q, const Maybe<float, 2>& s,
                  size_t group_columns) {
  const rsr::RowOutput to = {n,          pointer(weight), eps,          pointer(out),
                             pointer(q), pointer(s),      group_columns};
  require(!weight || weight->shape(0) == n, "weight must have an entry for each of a row");
  require(has_shape(out, count, n) && has_shape(q, count, n),
          "out and q must have the shape of the rows");
  require(q.has_value() == s.has_value() && has_shape(s, count, rsr::scale_count(to)),
          "q and s go together, and s must be (count, 1), or (count, groups) with group_columns");
  require(out || q, "one of out and (q, s) must be given");
  return {to, weight, out, q, s};
}

auto normalize(const Rows& x, const Maybe<const float, 2>& add, const Weight& weight, float eps,
               const Maybe<float, 2>& out, const Maybe<int8_t, 2>& q, const Maybe<float, 2>& s,
               size_t group_columns) {
  const size_t count = x.shape(0), n = x.shape(1);
  require(has_shape(add, count, n), "add must have the shape of x");
  const Output output = row_output(count, n, weight, eps, out, q, s, group_columns);
  return [=] { rsr::normalize(x.data(), pointer(add), count, output.to); };
}

auto gated(const Array<const float, 2>& gate, const Array<const float, 2>& up,
           const std::string& activation, const Weight& weight, float eps,
           const Maybe<float, 2>& out, const Maybe<int8_t, 2>& q, const Maybe<float, 2>& s,
           size_t group_columns) {
  const size_t count = gate.shape(0), n = gate.shape(1);
  require(up.shape(0) == count && up.shape(1) == n, "up must have the shape of gate");
  const rsr::Activation function = activation_named(activation);
  const Output output = row_output(count, n, weight, eps, out, q, s, group_columns);
  return [=] { rsr::gated(gate.data(), up.data(), function, count, output.to); };
}

auto rotate(const Array<const float, 2>& x, const Array<const float, 1>& factors, size_t block,
            const Maybe<float, 2>& out, const Maybe<int8_t, 2>& q, const Maybe<float, 2>& s,
            size_t group_columns) {
  const size_t count = x.shape(0), n = x.shape(1);
  const rsr::Rotation by = rotation_of(n, factors, block);
  const Output output = row_output(count, n, {}, 0.0f, out, q, s, group_columns);
  return [=] { rsr::rotate_rows(x.data(), count, by, output.to); };
}

auto rotate_back(const Array<const float, 2>& x, const Array<const float, 1>& factors, size_t block,
                 const Rows& out) {
  const size_t count = x.shape(0), n = x.shape(1);
  const rsr::Rotation by = rotation_of(n, factors, block);
  require(out.shape(0) == count && out.shape(1) == n, "out must have the shape of x");
  return [=] { rsr::rotate_rows_back(x.data(), count, by, out.data()); };
}

// Rotary position embedding, norms of queries and keys, and the factor of the scores.
struct Rope {
  Array<const float, 2> cos, sin;
  Weight q_norm, k_norm;
  float eps, scale;
  bool norms_follow;
};

// The KV cache of one layer.
class KVCache {
 public:
  template <class Cell>
  KVCache(Array<Cell, 4> keys, Array<Cell, 3> values)
      : arrays_(std::make_pair(keys, values)),
        cache_{keys.data(), values.data(), keys.shape(1),
               sizeof(Cell) == 2 ? rsr::CacheType::float16 : rsr::CacheType::float32},
        keys_{keys.shape(0), keys.shape(1), keys.shape(2), keys.shape(3)},
        values_{values.shape(0), values.shape(1), values.shape(2)} {}

  KVCache(Array<int8_t, 4> keys, Array<int8_t, 3> values, Scales key_scales, Scales value_scales)
      : arrays_(std::make_pair(keys, values)),
        scales_(std::make_pair(key_scales, value_scales)),
        cache_{keys.data(),          values.data(),     keys.shape(1),
               rsr::CacheType::int8, key_scales.data(), value_scales.data()},
        keys_{keys.shape(0), keys.shape(1), keys.shape(2), keys.shape(3)},
        values_{values.shape(0), values.shape(1), values.shape(2)} {
    for (const Scales& scales : {key_scales, value_scales})
      require(scales.shape(0) == keys_[0] && scales.shape(1) == keys_[1] * rsr::kLanes,
              "scales must be (key heads, blocks * 16)");
  }

  void check(size_t heads, size_t d) const {
    require(keys_[0] == heads && keys_[2] == d && keys_[3] == rsr::kLanes,
            "keys must be (key heads, blocks, d, 16)");
    require(values_[0] == heads && values_[1] == keys_[1] * rsr::kLanes &&
                values_[2] == rsr::whole_lanes(d),
            "values must be (key heads, blocks * 16, d rounded up to a multiple of 16)");
  }
  const rsr::KVCache& cache() const { return cache_; }

 private:
  template <class Cell>
  using Arrays = std::pair<Array<Cell, 4>, Array<Cell, 3>>;

  // These keep the memory alive.
  std::variant<Arrays<float>, Arrays<uint16_t>, Arrays<int8_t>> arrays_;
  std::optional<std::pair<Scales, Scales>> scales_;
  rsr::KVCache cache_;
  size_t keys_[4], values_[3];
};

auto attend(const Array<float, 3>& q, const Array<float, 3>& k, const Array<const float, 3>& v,
            const Rope& rope, const KVCache& cache, const Array<const int64_t, 1>& start,
            const Rows& out, std::optional<size_t> window) {
  const size_t rows = q.shape(0), d = q.shape(2);
  const rsr::Heads heads = {q.shape(1), k.shape(1), d};
  require(d > 0 && d % 2 == 0, "a head must have an even number of dimensions");
  require(heads.keys > 0 && heads.queries > 0 && heads.queries % heads.keys == 0,
          "the heads of q must be a multiple of those of k");
  require(k.shape(0) == rows && k.shape(2) == d, "k must be (rows of q, key heads, d)");
  require(v.shape(0) == rows && v.shape(1) == heads.keys && v.shape(2) == d,
          "v must have the shape of k");
  require(out.shape(0) == rows && out.shape(1) == heads.queries * d,
          "out must be (rows of q, heads * d)");
  require(
      (!rope.q_norm || rope.q_norm->shape(0) == d) && (!rope.k_norm || rope.k_norm->shape(0) == d),
      "q_norm and k_norm must be (d,)");
  cache.check(heads.keys, d);
  const size_t half = rope.cos.shape(1);
  require(half <= d / 2 && rope.sin.shape(1) == half && rope.cos.shape(0) == rope.sin.shape(0),
          "cos and sin must be (context, up to d / 2)");
  require(start.shape(0) == 1, "start must be one number");
  require(!window || *window > 0, "window must be at least one position");
  return [=] {
    // A program is recorded once for all positions, so the position is read and checked here.
    const size_t first = static_cast<size_t>(*start.data());
    const size_t size = cache.cache().blocks * rsr::kLanes;
    require(first <= size && rows <= size - first, "the rows reach beyond the cache");
    require(first + rows <= rope.cos.shape(0),
            "the rows reach beyond the positions of cos and sin");
    rsr::attend({q.data(), k.data(), v.data(), rows, first, out.data()}, heads,
                {rope.cos.data(), rope.sin.data(), half, pointer(rope.q_norm), pointer(rope.k_norm),
                 rope.eps, rope.norms_follow},
                cache.cache(), rope.scale, window.value_or(std::numeric_limits<size_t>::max()));
  };
}

auto norm_gated(const Array<const float, 2>& x, const Array<const float, 2>& z,
                const Array<const float, 1>& weight, float eps, const Maybe<float, 2>& out,
                const Maybe<int8_t, 2>& q, const Maybe<float, 2>& s, size_t group_columns) {
  const size_t count = x.shape(0), n = x.shape(1), d = weight.shape(0);
  require(z.shape(0) == count && z.shape(1) == n, "z must have the shape of x");
  require(d > 0 && n % d == 0, "weight must have an entry for each of a head");
  const Output output = row_output(count, n, std::nullopt, 0.0f, out, q, s, group_columns);
  return [=] { rsr::norm_gated(x.data(), z.data(), d, weight.data(), eps, count, output.to); };
}

// The weights of a gated delta net between its products.
struct DeltaWeights {
  Array<const float, 2> convolution;
  Array<const float, 1> a, dt_bias;
};

// What a gated delta net keeps of a sequence.
struct DeltaState {
  Rows rows;
  Array<float, 4> state;
};

auto delta_net(const Array<const float, 2>& qkv, const Rows& a, const Rows& b,
               const DeltaWeights& weights, const DeltaState& state, const Rows& convolved,
               const Rows& out) {
  const size_t rows = qkv.shape(0), taps = weights.convolution.shape(0);
  const size_t values = state.state.shape(0), dk = state.state.shape(2);
  require(values > 0 && dk > 0 && out.shape(1) % values == 0 && out.shape(1) > 0,
          "out must be (rows, value heads * dv)");
  rsr::DeltaHeads heads = {values, 0, out.shape(1) / values, dk};
  require(qkv.shape(1) > out.shape(1) && (qkv.shape(1) - out.shape(1)) % (2 * dk) == 0,
          "qkv must have the channels of query heads, key heads and value heads");
  heads.keys = (qkv.shape(1) - out.shape(1)) / (2 * dk);
  require(values % heads.keys == 0, "the value heads must be a multiple of the key heads");
  require(state.state.shape(1) == rsr::whole_lanes(heads.dv) / rsr::kLanes &&
              state.state.shape(3) == rsr::kLanes,
          "state must be (value heads, dv / 16 rounded up, dk, 16)");
  require(0 < taps && taps <= rsr::kMostTaps && weights.convolution.shape(1) == qkv.shape(1),
          "the convolution must be (taps, channels), with up to 16 taps");
  require(state.rows.shape(0) == taps - 1 && state.rows.shape(1) == qkv.shape(1),
          "rows must be (taps - 1, channels)");
  require(weights.a.shape(0) == values && weights.dt_bias.shape(0) == values,
          "a and dt_bias must have an entry for each value head");
  require(a.shape(0) == rows && a.shape(1) == values && b.shape(0) == rows && b.shape(1) == values,
          "a and b must be (rows, value heads)");
  require(convolved.shape(0) == rows && convolved.shape(1) == qkv.shape(1),
          "convolved must have the shape of qkv");
  require(out.shape(0) == rows, "out must have the rows of qkv");
  return [=] {
    rsr::delta_net({qkv.data(), a.data(), b.data(), rows, convolved.data(), out.data()}, heads,
                   {weights.convolution.data(), taps, weights.a.data(), weights.dt_bias.data()},
                   {state.rows.data(), state.state.data()});
  };
}

// An array of float32, of float16, or of the bits of bfloat16, uint16.
template <int N>
using Floats = nb::ndarray<nb::ro, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

template <class Given>
rsr::DenseType dtype_of(const Given& array) {
  const nb::dlpack::dtype found = array.dtype();
  if (found == nb::dtype<float>()) return rsr::DenseType::f32;
  if (found == nb::dtype<uint16_t>()) return rsr::DenseType::bf16;
  require(found == nb::dtype<Half>(), "a and b must be float32, float16, or bfloat16 as uint16");
  return rsr::DenseType::f16;
}

auto add_low_rank(const Array<const float, 2>& x, const std::vector<Floats<2>>& a,
                  const std::vector<Floats<3>>& b, const std::vector<double>& scales,
                  const Array<float, 1>& scratch, const std::vector<Array<float, 2>>& y) {
  const size_t count = x.shape(0), columns = x.shape(1);
  require(a.size() == b.size() && a.size() == scales.size() && a.size() == y.size(),
          "there must be as many of a, b, scales and y");
  std::vector<rsr::LowRank> products;
  size_t ranks = 0;
  for (size_t i = 0; i < a.size(); i++) {
    const size_t rank = a[i].shape(0), rows = y[i].shape(1);
    require(a[i].shape(1) == columns, "a must be (rank, columns of x)");
    require(b[i].shape(0) == rsr::whole_lanes(rows) / rsr::kLanes && b[i].shape(1) == rank &&
                b[i].shape(2) == rsr::kLanes,
            "b must be (rows / 16 rounded up, rank, 16)");
    require(y[i].shape(0) == count, "y must have the rows of x");
    require(std::abs(scales[i]) <= std::numeric_limits<float>::max(), "scales must fit float32");
    products.push_back({{a[i].data(), rank, columns, dtype_of(a[i])},
                        b[i].data(),
                        dtype_of(b[i]),
                        static_cast<float>(scales[i]),
                        rows,
                        y[i].data()});
    ranks += rank;
  }
  require(scratch.shape(0) == count * ranks, "scratch must be (rows of x * all ranks,)");
  return [x, a, b, y, scratch, count, products] {  // holds the arrays
    rsr::add_low_rank(x.data(), count, products.data(), products.size(), scratch.data());
  };
}

constexpr const char* kOutputs =
    "weight: (n,), or None for no RMS norm. out: (count, n) float32, or None. q: (count, n) int8 "
    "and s: (count, 1), as of quantize_i8, or None both. group_columns: above 0, q and s are as of "
    "quantize_groups_i8. Raises ValueError for other shapes, or if there is no output.";

}  // namespace

rsr::Rotation rotation_of(size_t n, const Array<const float, 1>& factors, size_t block) {
  require(block >= rsr::kLanes && (block & (block - 1)) == 0 && n % block == 0,
          "block must be a power of two from 16 on that divides the columns");
  require(factors.shape(0) == n, "factors must have an entry for each column");
  return {n, block, factors.data()};
}

rsr::Activation activation_named(const std::string& name) {
  if (name == "silu") return rsr::Activation::silu;
  if (name == "relu2") return rsr::Activation::relu2;
  if (name == "gelu_tanh") return rsr::Activation::gelu_tanh;
  if (name == "sigmoid") return rsr::Activation::sigmoid;
  throw std::invalid_argument("unknown activation '" + name +
                              "'; there are silu, relu2, gelu_tanh, sigmoid");
}

void bind_decoder(nb::module_& m, nb::class_<Program>& program) {
  const std::string normalize_doc =
      std::string(
          "x += add; then the RMS norm of x, x / sqrt(mean(x^2) + eps) * weight, to out, to "
          "(q, s), or to both.\n\n"
          "x: (count, n), overwritten if add is given. add: (count, n), or None. ") +
      kOutputs;
  bind_step(m, program, "normalize", &normalize, normalize_doc.c_str(), "x"_a.noconvert(),
            "add"_a.none(), "weight"_a.none(), "eps"_a, "out"_a.noconvert().none(),
            "q"_a.noconvert().none(), "s"_a.noconvert().none(), "group_columns"_a = 0);
  const std::string gated_doc =
      std::string(
          "activation(gate) * up, then its RMS norm as in normalize, to out, to (q, s), or "
          "to both.\n\n"
          "gate, up: (count, n). activation: 'silu', 'relu2', 'gelu_tanh' or 'sigmoid'. ") +
      kOutputs;
  bind_step(m, program, "gated", &gated, gated_doc.c_str(), "gate"_a, "up"_a, "activation"_a,
            "weight"_a.none(), "eps"_a, "out"_a.noconvert().none(), "q"_a.noconvert().none(),
            "s"_a.noconvert().none(), "group_columns"_a = 0);
  bind_step(
      m, program, "rotate", &rotate,
      "H (factors * x) to out, to (q, s), or to both, where H is the Walsh-Hadamard matrix "
      "[(-1)^popcount(r & c)] on the diagonal blocks of a matrix.\n\n"
      "x: (count, n). factors: (n,). block: rows of H, a power of two from 16 on that divides "
      "n. out, q, s, group_columns: as of normalize; out may be x. Raises ValueError for "
      "other shapes, or if there is no output.",
      "x"_a.noconvert(), "factors"_a.noconvert(), "block"_a, "out"_a.noconvert().none(),
      "q"_a.noconvert().none(), "s"_a.noconvert().none(), "group_columns"_a = 0);
  bind_step(m, program, "rotate_back", &rotate_back,
            "factors * (H x) to out; with factors of magnitude block^-1/2, what undoes rotate.\n\n"
            "x, out: (count, n); out may be x. factors, block: as of rotate. Raises ValueError for "
            "other shapes.",
            "x"_a.noconvert(), "factors"_a.noconvert(), "block"_a, "out"_a.noconvert());
  nb::class_<DeltaWeights>(m, "DeltaWeights",
                           "The weights of a gated delta net between its products.")
      .def(nb::init<Array<const float, 2>, Array<const float, 1>, Array<const float, 1>>(),
           "convolution"_a.noconvert(), "a"_a.noconvert(), "dt_bias"_a.noconvert(),
           "convolution: (taps, channels) float32, of the oldest row first. a, dt_bias: (value "
           "heads,); a is negative.");
  nb::class_<DeltaState>(m, "DeltaState", "What a gated delta net keeps of a sequence.")
      .def(nb::init<Rows, Array<float, 4>>(), "rows"_a.noconvert(), "state"_a.noconvert(),
           "Both zero before the first row. rows: (taps - 1, channels) float32, the last inputs of "
           "the convolution. state: (value heads, dv / 16 rounded up, dk, 16) float32.");
  bind_step(
      m, program, "delta_net", &delta_net,
      "Pass rows through a gated delta net, and update its state.\n\n"
      "qkv goes through the convolution and SiLU; queries and keys are divided by their L2 "
      "norms, queries also by sqrt(dk). Then, for each row and value head: S *= exp(a "
      "softplus(a_row + dt_bias)); e = sigmoid(b_row) (v - S^T k); S += k e^T; out = S^T q. "
      "Several value heads in a row share a query and a key head.\n\n"
      "qkv: (rows, channels): query heads, key heads, value heads. a, b: (rows, value heads), "
      "overwritten. convolved: scratch of the shape of qkv. out: (rows, value heads * dv), "
      "written. Raises ValueError for other shapes.",
      "qkv"_a.noconvert(), "a"_a.noconvert(), "b"_a.noconvert(), "weights"_a, "state"_a,
      "convolved"_a.noconvert(), "out"_a.noconvert());
  bind_step(m, program, "norm_gated", &norm_gated,
            "The RMS norm of each head of x, times weight and silu(z), to out, to (q, s), or to "
            "both.\n\n"
            "x, z: (count, n). weight: (d,), a divisor of n. eps: of the norm. Outputs are as of "
            "normalize. Raises ValueError for other shapes, or if there is no output.",
            "x"_a.noconvert(), "z"_a.noconvert(), "weight"_a.noconvert(), "eps"_a,
            "out"_a.noconvert().none(), "q"_a.noconvert().none(), "s"_a.noconvert().none(),
            "group_columns"_a = 0);
  bind_step(m, program, "add_low_rank", &add_low_rank,
            "y[i] += scales[i] * (x @ a[i].T) @ B[i].T, float32 sums.\n\n"
            "x: (count, columns). a: of each product (rank, columns). b: B (rows, rank) of each as "
            "(rows / 16 rounded up, rank, 16): tiles of 16 rows, the last padded with zeros. a and "
            "b are float32, float16, or bfloat16 as uint16. "
            "scratch: (count * the sum of all ranks,), overwritten. y: of each (count, rows). "
            "Raises ValueError for other shapes and dtypes.",
            "x"_a.noconvert(), "a"_a.noconvert(), "b"_a.noconvert(), "scales"_a,
            "scratch"_a.noconvert(), "y"_a.noconvert());
  nb::class_<Rope>(
      m, "Rope", "Rotary position embedding, norms of queries and keys, and the factor of scores.")
      .def(nb::init<Array<const float, 2>, Array<const float, 2>, Weight, Weight, float, float,
                    bool>(),
           "cos"_a.noconvert(), "sin"_a.noconvert(), nb::kw_only(),
           "q_norm"_a.noconvert().none() = nb::none(), "k_norm"_a.noconvert().none() = nb::none(),
           "eps"_a = 0.0f, "scale"_a, "norms_follow"_a = false,
           "cos, sin: (context, n), which rotate the first 2 n features of a head. q_norm, k_norm: "
           "(d,), the weights of RMS norms with eps, or None. scale: of q . k. norms_follow: norms "
           "apply to rotated q and k.");
  nb::class_<KVCache>(m, "KVCache", "The KV cache of one layer.")
      .def(nb::init<Array<float, 4>, Array<float, 3>>(), "keys"_a.noconvert(),
           "values"_a.noconvert(),
           "float32. keys: (key heads, blocks, d, 16), 16 positions side by side. values: (key "
           "heads, blocks * 16, d rounded up to a multiple of 16).")
      .def(nb::init<Array<uint16_t, 4>, Array<uint16_t, 3>>(), "keys"_a.noconvert(),
           "values"_a.noconvert(), "The same in float16 bits.")
      .def(nb::init<Array<int8_t, 4>, Array<int8_t, 3>, Scales, Scales>(), "keys"_a.noconvert(),
           "values"_a.noconvert(), "key_scales"_a.noconvert(), "value_scales"_a.noconvert(),
           "The same in int8, times the scale of the position and head. Scales: (key heads, blocks "
           "* 16) float32. Raises ValueError for scales of another shape.");
  bind_step(m, program, "attend", &attend,
            "Attention of rows at positions start, start + 1, ... of one sequence.\n\n"
            "Normalizes and rotates q and k in place, writes k and v to the cache; then out[i] = "
            "softmax(scale q[i] . keys[: start + i + 1]) values[: start + i + 1] for each head.\n\n"
            "window: a row sees no more than so many positions, its own included; None: all. "
            "q: (rows, heads, d), d even. k, v: (rows, key heads, d). start: (1,) int64; a program "
            "reads it when it runs. out: (rows, heads * d), written. Raises ValueError for other "
            "shapes, and, when it runs, for rows beyond the cache or beyond cos and sin.",
            "q"_a.noconvert(), "k"_a.noconvert(), "v"_a, "rope"_a, "cache"_a, "start"_a.noconvert(),
            "out"_a.noconvert(), "window"_a.none() = nb::none());
}
