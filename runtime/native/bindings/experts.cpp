// Bindings of mixtures of experts. They check every shape, and when a program runs, every choice.
#include "experts.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "bindings/program.h"

using namespace nb::literals;

namespace {

// A dense float matrix, as a file stores it.
class Dense {
 public:
  Dense(Array<const float, 2> weight)  // NOLINT: bound by its arguments
      : weight_(weight),
        matrix_{weight.data(), weight.shape(0), weight.shape(1), rsr::DenseType::f32} {}
  Dense(Array<const uint16_t, 2> weight, bool is_bfloat16)
      : weight_(weight),
        matrix_{weight.data(), weight.shape(0), weight.shape(1),
                is_bfloat16 ? rsr::DenseType::bf16 : rsr::DenseType::f16} {}

  const rsr::DenseMatrix& matrix() const { return matrix_; }

 private:
  std::variant<Array<const float, 2>, Array<const uint16_t, 2>> weight_;  // keeps it alive
  rsr::DenseMatrix matrix_;
};

rsr::ExpertMatrix matrix_of(nb::handle object) {
  if (const rsr::RankedIndex* index = ranked_index(object)) return {index, {}};
  require(nb::isinstance<Dense>(object), "a matrix of an expert must be a Ranked or a Dense");
  return {nullptr, nb::cast<const Dense&>(object).matrix()};
}

rsr::ExpertInput input_named(const std::string& name) {
  if (name == "float32") return rsr::ExpertInput::floats;
  if (name == "int8") return rsr::ExpertInput::int8;
  if (name == "int8-group") return rsr::ExpertInput::int8_groups;
  throw std::invalid_argument("unknown activations '" + name + "'");
}

// The experts of a layer.
class Experts {
 public:
  Experts(std::vector<nb::object> gate, std::vector<nb::object> up, std::vector<nb::object> down,
          const std::string& activation, const std::string& input, const std::string& down_input,
          const Maybe<const float, 1>& down_factors, size_t down_block)
      : held_{std::move(gate), std::move(up), std::move(down)}, factors_(down_factors) {
    require(!held_[0].empty() && held_[0].size() == held_[1].size() &&
                held_[0].size() == held_[2].size(),
            "gate, up and down must have a matrix for each expert");
    layer_.activation = activation_named(activation);
    layer_.input = input_named(input);
    layer_.down_input = input_named(down_input);
    for (size_t e = 0; e < held_[0].size(); e++)
      layer_.experts.push_back(
          {matrix_of(held_[0][e]), matrix_of(held_[1][e]), matrix_of(held_[2][e])});
    layer_.hidden = layer_.experts[0].gate.columns();
    layer_.width = layer_.experts[0].gate.rows();
    layer_.down_rotation = {layer_.width, 0, nullptr};
    if (factors_) layer_.down_rotation = rotation_of(layer_.width, *factors_, down_block);
    layer_.group_columns = layer_.down_group_columns = 0;
    layer_.has_dense = layer_.has_dense_down = false;
    for (const rsr::Expert& e : layer_.experts) {
      for (const rsr::ExpertMatrix* m : {&e.gate, &e.up})
        add(*m, layer_.width, layer_.hidden, layer_.input, layer_.group_columns, layer_.has_dense);
      add(e.down, layer_.hidden, layer_.width, layer_.down_input, layer_.down_group_columns,
          layer_.has_dense_down);
    }
    check_groups(layer_.input, layer_.group_columns);
    check_groups(layer_.down_input, layer_.down_group_columns);
  }

  const rsr::ExpertLayer& layer() const { return layer_; }

 private:
  static void add(const rsr::ExpertMatrix& m, size_t rows, size_t columns, rsr::ExpertInput input,
                  size_t& group_columns, bool& has_dense) {
    require(m.rows() == rows && m.columns() == columns,
            "gates and ups must have one shape, and downs its reverse");
    if (!m.index) {
      has_dense = true;
    } else if (input == rsr::ExpertInput::int8_groups) {
      if (group_columns == 0) group_columns = m.index->step_columns();
      require(group_columns == m.index->step_columns(),
              "with int8-group, the matrices must have groups of as many columns");
    }
  }

  // Only indices have groups, and without one the number of their scales is unknown.
  static void check_groups(rsr::ExpertInput input, size_t group_columns) {
    require(input != rsr::ExpertInput::int8_groups || group_columns > 0,
            "with int8-group, at least one matrix must be a Ranked");
  }

  std::vector<nb::object> held_[3];
  Maybe<const float, 1> factors_;
  rsr::ExpertLayer layer_;
};

// The choice is an input, and it is read when a program runs.
void check_choice(const int32_t* chosen, size_t size, size_t experts) {
  for (size_t i = 0; i < size; i++)
    require(0 <= chosen[i] && static_cast<size_t>(chosen[i]) < experts,
            "an expert was chosen that does not exist");
}

auto route(const Array<const float, 2>& logits, bool normalized, const Array<int32_t, 2>& chosen,
           const Array<float, 2>& weights) {
  const size_t count = logits.shape(0), experts = logits.shape(1), k = chosen.shape(1);
  require(0 < k && k <= experts, "at least one expert and no more than there are must be chosen");
  require(chosen.shape(0) == count && weights.shape(0) == count && weights.shape(1) == k,
          "chosen and weights must be (rows of logits, k)");
  return [=] {
    rsr::route(logits.data(), count, experts, k, normalized, chosen.data(), weights.data());
  };
}

auto multiply_experts(const Experts& experts, const Maybe<const float, 2>& x,
                      const Maybe<const int8_t, 2>& q, const Maybe<const float, 2>& s,
                      const Array<const int32_t, 2>& chosen, const Array<const float, 2>& weights,
                      size_t share, size_t shares, const Array<float, 2>& y) {
  const rsr::ExpertLayer& layer = experts.layer();
  const size_t count = y.shape(0), k = chosen.shape(1);
  const bool quantized = layer.input != rsr::ExpertInput::floats;
  const size_t scales = layer.group_columns ? rsr::divide_up(layer.hidden, layer.group_columns) : 1;
  require(y.shape(1) == layer.hidden, "y must be (count, hidden)");
  require(x || (quantized && !layer.has_dense), "the experts take floats");
  require(!quantized || (q && s), "the experts take int8");
  require(!x || (x->shape(0) == count && x->shape(1) == layer.hidden), "x must have y's shape");
  require(!q || (q->shape(0) == count && q->shape(1) == layer.hidden), "q must have y's shape");
  require(!s || (s->shape(0) == count && s->shape(1) == scales),
          "s must be (count, 1), or (count, groups)");
  require(chosen.shape(0) == count && weights.shape(0) == count && weights.shape(1) == k && k > 0,
          "chosen and weights must be (count, k)");
  require(share < shares, "share must be below shares");
  require(count == 0 || shares <= SIZE_MAX / (count * k), "there are too many shares");
  return [=, held = nb::find(experts), &layer] {
    check_choice(chosen.data(), count * k, layer.experts.size());
    rsr::multiply_experts(layer, {pointer(x), pointer(q), pointer(s)}, count, chosen.data(),
                          weights.data(), k, share, shares, y.data());
  };
}

}  // namespace

void bind_experts(nb::module_& m, nb::class_<Program>& program) {
  nb::class_<Dense>(m, "Dense", "A dense float matrix of an expert, as a file stores it.")
      .def(nb::init<Array<const float, 2>>(), "weight"_a.noconvert(), "weight: (rows, columns).")
      .def(nb::init<Array<const uint16_t, 2>, bool>(), "weight"_a.noconvert(), "is_bfloat16"_a,
           "weight: (rows, columns), bits of bfloat16 or float16.");
  nb::class_<Experts>(m, "Experts", "The experts of a layer.")
      .def(nb::init<std::vector<nb::object>, std::vector<nb::object>, std::vector<nb::object>,
                    const std::string&, const std::string&, const std::string&,
                    const Maybe<const float, 1>&, size_t>(),
           "gate"_a, "up"_a, "down"_a, "activation"_a, "input"_a, "down_input"_a,
           "down_factors"_a.noconvert().none() = nb::none(), "down_block"_a = 0,
           nb::sig(
               "def __init__(self, gate: collections.abc.Sequence[Ranked | Dense], up: "
               "collections.abc.Sequence[Ranked | Dense], down: collections.abc.Sequence[Ranked | "
               "Dense], activation: str, input: str, down_input: str, down_factors: "
               "numpy.typing.NDArray[numpy.float32] | None = None, down_block: int = 0) -> None"),
           "gate, up: of each expert, (width, hidden). down: (hidden, width). activation: "
           "'silu', 'relu2', 'gelu_tanh' or 'sigmoid'. input, down_input: what the indices among "
           "gate and up, and among down, multiply: 'float32', 'int8' or 'int8-group'; a Dense "
           "multiplies float32. down_factors, down_block: as of rotate, of the basis of down; None "
           "if it is the model's. Raises ValueError for other shapes, for groups of different "
           "columns, and for int8-group without an index.");
  bind_step(m, program, "route", &route,
            "The experts of each row with the largest softmax(logits), and these probabilities.\n\n"
            "logits: (count, experts). normalized: divide the probabilities of a row by their sum. "
            "chosen: (count, k), written, ascending; of equal logits the first is chosen. weights: "
            "(count, k), written, within (9 + largest - logit) 2^-24 of each. Raises ValueError "
            "for other shapes.",
            "logits"_a, "normalized"_a, "chosen"_a.noconvert(), "weights"_a.noconvert());
  bind_step(m, program, "multiply_experts", &multiply_experts,
            "y[i] = sum over j of weights[i, j] * down(activation(gate(x[i])) * up(x[i])) of "
            "expert chosen[i, j], in ascending order of the experts.\n\n"
            "x: (count, hidden), float32, or None. q: int8, and s: (count, 1) or (count, groups), "
            "as quantize_i8 or quantize_groups_i8 returns them, or None. chosen, weights: (count, "
            "k), as of route. share: of `shares` equal ones, which are called in order. y: "
            "(count, hidden), complete after the last share. Raises ValueError for other shapes, "
            "and, when it runs, for an expert that does not exist.",
            "experts"_a, "x"_a.none(), "q"_a.none(), "s"_a.none(), "chosen"_a, "weights"_a,
            "share"_a, "shares"_a, "y"_a.noconvert());
}
