// Bindings of products: Ranked, Permuted, dense.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "bindings/numpy.h"
#include "bindings/program.h"
#include "dense/dense.h"
#include "permuted/permuted.h"
#include "ranked.h"

using namespace nb::literals;

namespace {

template <class X, class Y>
void check_shapes(const Array<const X, 2>& x, const Array<Y, 2>& y, size_t in, size_t out) {
  require(x.shape(1) == in && y.shape(1) == out && x.shape(0) == y.shape(0),
          "x must be (count, in_features) and y (count, out_features)");
}

// Checks the shapes. Returns the work, which holds both arrays.
template <class X, class Y, class Multiply>
auto product(const Array<const X, 2>& x, const Array<Y, 2>& y, size_t in, size_t out,
             const Multiply& multiply) {
  check_shapes(x, y, in, out);
  return [=] { multiply(x.data(), x.shape(0), y.data()); };
}

void check_scale(const Array<const float, 1>& scale, size_t scale_rows, size_t out) {
  require(scale_rows > 0 && scale.shape(0) * scale_rows >= out, "too few scales");
}

using Bytes = Array<const uint8_t, 2>;

void multiply(const rsr::RankedProduct<int32_t>* products, size_t size, const int8_t* x,
              size_t count, rsr::Orders orders) {
  rsr::multiply_i8(products, size, x, count, orders);
}

void multiply(const rsr::RankedProduct<float>* products, size_t size, const float* x, size_t count,
              rsr::Orders orders) {
  rsr::multiply_f32(products, size, x, count, orders);
}

class Ranked {
 public:
  Ranked(Array<const uint16_t, 1> words, size_t rows, size_t columns,
         Array<const int16_t, 2> patterns, Array<const float, 1> scale, size_t scale_rows,
         std::optional<Bytes> group_scale, size_t group_columns, size_t stride)
      : words_(words), scale_(scale), group_scale_(group_scale) {
    set_index(rsr::Packing::w16, words.data(), rows, columns, patterns, scale_rows);
    if (group_scale) set_groups(*group_scale, group_columns);
    if (stride != 1) set_stride(stride);
    check_size(words.nbytes());
  }

  Ranked(Array<const uint8_t, 1> bytes, size_t rows, size_t columns,
         Array<const int16_t, 2> patterns, Array<const float, 1> scale, size_t scale_rows,
         std::optional<Bytes> group_scale, size_t group_columns)
      : bytes_(bytes), scale_(scale), group_scale_(group_scale) {
    require(patterns.shape(0) == size_t{rsr::N4S1::kK}, "packing n4s1 needs k = 3");
    set_index(rsr::Packing::n4s1, bytes.data(), rows, columns, patterns, scale_rows);
    if (group_scale) set_groups(*group_scale, group_columns);
    check_size(bytes.nbytes());
  }

  Ranked(const Ranked&) = delete;  // index_ points to patterns_

  const rsr::RankedIndex& index() const { return index_; }

  // The product with x (in_features,), if it has most_dimensions also with (in_features, count).
  nb::object times(nb::handle x, size_t most_dimensions) const {
    const NumPyView view(x);
    const bool is_float = view.holds<float>();
    if (!(is_float || view.holds<int8_t>())) return nb::none();
    const size_t dimensions = view.dimensions();
    if (dimensions == 0 || dimensions > most_dimensions || view.shape(0) != index_.columns)
      return nb::none();
    return is_float ? times<float, float>(view) : times<int8_t, int32_t>(view);
  }

  // The product with rows (..., in_features) of float32; activations as of Matrix.linear.
  nb::object linear(nb::handle x, nb::handle activations) const {
    const auto is = [&](const char* name) {
      return PyUnicode_CompareWithASCIIString(activations.ptr(), name) == 0;
    };
    if (!PyUnicode_Check(activations.ptr())) return nb::none();
    void (*multiply)(const rsr::RankedProduct<float>*, size_t, const float*, size_t) = nullptr;
    if (is("float32")) multiply = [](auto... a) { rsr::multiply_f32(a...); };
    if (is("int8")) multiply = rsr::multiply_quantizing;
    if (is("int8-group")) multiply = rsr::multiply_group_quantizing;
    if (!multiply) return nb::none();
    const NumPyView view(x);
    if (!view.holds<float>() || !view.is_c_contiguous()) return nb::none();
    const size_t last = view.dimensions() - 1;
    if (view.dimensions() == 0 || view.shape(last) != index_.columns) return nb::none();
    size_t count = 1;
    for (size_t i = 0; i < last; i++) count *= view.shape(i);
    nb::tuple shape = nb::steal<nb::tuple>(PyTuple_New(static_cast<Py_ssize_t>(last + 1)));
    for (size_t i = 0; i <= last; i++)
      PyTuple_SetItem(shape.ptr(), i,
                      nb::int_(i < last ? view.shape(i) : index_.rows).release().ptr());
    return made<float>(shape,
                       [&](const auto& to) { multiply(&to, 1, view.data<const float>(), count); });
  }

 private:
  template <class X, class Y>
  nb::object times(const NumPyView& x) const {
    const X* from = x.data<const X>();
    if (x.dimensions() == 1)
      return made<Y>(nb::make_tuple(index_.rows),
                     [&](const auto& to) { multiply(&to, 1, from, 1, {}); });
    const size_t count = x.shape(1);
    const rsr::Order order = x.is_c_contiguous() ? rsr::Order::columns : rsr::Order::rows;
    return made<Y>(nb::make_tuple(index_.rows, count), [&](const auto& to) {
      multiply(&to, 1, from, count, {order, rsr::Order::columns});
    });
  }

  // A new array that work(RankedProduct) writes.
  template <class Y, class Work>
  nb::object made(const nb::tuple& shape, const Work& work) const {
    nb::object y = new_array<Y>(shape);
    const NumPyView view(y);
    const rsr::RankedProduct<Y> product{&index_, view.data<Y>()};
    without_gil([&] { work(product); });
    return y;
  }

  void set_index(rsr::Packing packing, const void* data, size_t rows, size_t columns,
                 const Array<const int16_t, 2>& patterns, size_t scale_rows) {
    const int k = static_cast<int>(patterns.shape(0));
    const size_t count = patterns.shape(1);
    require(1 <= k && k <= rsr::kMaxK && count <= size_t{rsr::kPatterns},
            "patterns must be (k, count), k from 1 to 5, count up to 32");
    for (int d = 0; d < k; d++)
      std::copy_n(patterns.data() + d * count, count, patterns_.data() + d * rsr::kPatterns);
    const int largest = rsr::largest_digit(patterns_.data(), k);
    require(largest <= rsr::kMaxDigit && k * largest <= rsr::kMaxK,
            "digits must be -2 to 2, and k times the largest at most 5");
    require(columns < rsr::columns_end(largest), "sums of so many columns overflow int32");
    check_scale(scale_, scale_rows, rows);
    index_ = {packing,
              static_cast<const uint8_t*>(data),
              rows,
              columns,
              k,
              patterns_.data(),
              largest,
              count <= size_t{rsr::kFewPatterns},
              scale_.data(),
              scale_rows,
              {},
              1};
  }

  void set_groups(const Bytes& scale, size_t columns) {
    require(0 < columns && columns < index_.columns, "a group must be a part of the columns");
    const size_t groups = (index_.columns + columns - 1) / columns, rows = index_.rows;
    const bool is_half = scale.shape(1) == 2 * rows;
    require(scale.shape(0) == groups && (is_half || scale.shape(1) == 4 * rows),
            "scales of groups must be the bytes of (groups, rows), float16 or float32");
    index_.groups = {columns, scale.data(), is_half};
  }

  void set_stride(size_t stride) {
    const size_t k = index_.k;
    require(0 < stride && stride <= size_t(1) << 24, "stride must be from 1 to 2^24");
    require(index_.columns % (k * stride) == 0 && index_.groups.columns % (k * stride) == 0,
            "columns and those of a group must be multiples of k * stride");
    index_.stride = stride;
  }

  void check_size(size_t bytes) const {
    require(bytes == index_.bytes(), "the array does not have the size of the index");
  }

  Array<const uint16_t, 1> words_;  // these keep the memory alive
  Array<const uint8_t, 1> bytes_;
  std::array<int16_t, rsr::kMaxK * rsr::kPatterns> patterns_ = {};
  Array<const float, 1> scale_;
  std::optional<Bytes> group_scale_;
  rsr::RankedIndex index_;
};

using Matrices = std::vector<const Ranked*>;

// The products W[j] x, where y[j] is to be written. check(index, y[j]) checks the shapes. The
// result of a matrix does not depend on the others.
template <class Y, class Check>
auto ranked_products(const Matrices& matrices, const std::vector<Array<Y, 2>>& y,
                     const Check& check) {
  require(!matrices.empty() && matrices.size() == y.size(), "each matrix needs its y");
  std::vector<rsr::RankedProduct<Y>> products;
  for (size_t j = 0; j < y.size(); j++) {
    const rsr::RankedIndex& index = matrices[j]->index();
    require(index.shares_input(matrices[0]->index()), "the matrices must have one input");
    check(index, y[j]);
    products.push_back({&index, y[j].data()});
  }
  return products;
}

// multiply(products, size, x, count) for y[j][i] = W[j] x[i].
template <class X, class Y, class Multiply>
auto ranked_work(const Matrices& matrices, const Array<const X, 2>& x,
                 const std::vector<Array<Y, 2>>& y, const Multiply& multiply) {
  auto products = ranked_products(matrices, y, [&](const rsr::RankedIndex& a, const auto& to) {
    check_shapes(x, to, a.columns, a.rows);
  });
  std::vector<nb::object> held;
  for (const Ranked* matrix : matrices) held.push_back(nb::find(matrix));
  return [products = std::move(products), held = std::move(held), x, y, multiply] {
    multiply(products.data(), products.size(), x.data(), x.shape(0));
  };
}

auto multiply_i8(const Matrices& matrices, const Array<const int8_t, 2>& x,
                 const std::vector<Array<int32_t, 2>>& y) {
  return ranked_work(matrices, x, y, [](auto... a) { rsr::multiply_i8(a...); });
}

auto multiply_f32(const Matrices& matrices, const Array<const float, 2>& x,
                  const std::vector<Array<float, 2>>& y) {
  return ranked_work(matrices, x, y, [](auto... a) { rsr::multiply_f32(a...); });
}

auto multiply_quantized(const Matrices& matrices, const Array<const int8_t, 2>& q,
                        const Array<const float, 2>& s, const std::vector<Array<float, 2>>& y) {
  require(s.shape(0) == q.shape(0) && s.shape(1) == 1, "s must be (count, 1)");
  return ranked_work(matrices, q, y, [s](auto products, size_t size, auto x, size_t count) {
    rsr::multiply_quantized(products, size, x, s.data(), count);
  });
}

template <class X, class Y>
void multiply_columns(const Matrices& matrices,
                      const nb::ndarray<const X, nb::ndim<2>, nb::device::cpu>& x,
                      const std::vector<Array<Y, 2>>& y) {
  const size_t columns = x.shape(0), count = x.shape(1);
  const auto products = ranked_products(matrices, y, [&](const auto& index, const auto& to) {
    require(columns == index.columns && to.shape(0) == index.rows && to.shape(1) == count,
            "x must be (in_features, count) and y (out_features, count)");
  });
  const auto has_strides = [&](size_t first, size_t second) {
    return (columns <= 1 || size_t(x.stride(0)) == first) &&
           (count <= 1 || size_t(x.stride(1)) == second);
  };
  const bool is_c = has_strides(count, 1);
  require(is_c || has_strides(1, columns), "x must be C- or F-contiguous");
  const rsr::Orders orders{is_c ? rsr::Order::columns : rsr::Order::rows, rsr::Order::columns};
  without_gil([&] { multiply(products.data(), products.size(), x.data(), count, orders); });
}

void multiply_quantizing(const Matrices& matrices, const Array<const float, 2>& x,
                         const std::vector<Array<float, 2>>& y) {
  without_gil(ranked_work(matrices, x, y, rsr::multiply_quantizing));
}

void multiply_group_quantizing(const Matrices& matrices, const Array<const float, 2>& x,
                               const std::vector<Array<float, 2>>& y) {
  without_gil(ranked_work(matrices, x, y, rsr::multiply_group_quantizing));
}

auto multiply_group_quantized(const Matrices& matrices, const Array<const int8_t, 2>& q,
                              const Array<const float, 2>& steps,
                              const std::vector<Array<float, 2>>& y) {
  for (const Ranked* matrix : matrices)
    require(steps.shape(0) == q.shape(0) && steps.shape(1) == matrix->index().step_count(),
            "steps must be (count, groups)");
  return ranked_work(matrices, q, y, [steps](auto products, size_t size, auto x, size_t count) {
    rsr::multiply_group_quantized(products, size, x, steps.data(), count);
  });
}

template <class Index>
class Permuted {
 public:
  Permuted(Array<const Index, 2> permutation, Array<const Index, 2> segments, size_t columns, int k,
           Array<const int8_t, 1> values, bool reduce, Array<const float, 1> scale,
           size_t scale_rows)
      : permutation_(permutation), segments_(segments), values_(values), scale_(scale) {
    const int base = static_cast<int>(values.shape(0));
    require(2 <= base && base <= 5 && 1 <= k && k <= 16, "base must be 2 to 5, k from 1 to 16");
    size_t patterns = 1;
    for (int i = 0; i < k; i++) patterns *= base;
    require(patterns <= 65536, "base^k must be at most 65536");
    int largest = 1;
    for (int d = 0; d < base; d++) largest = std::max(largest, std::abs(int{values(d)}));
    require(largest <= rsr::kMaxDigit, "values must be -2 to 2");
    index_ = {permutation.data(),
              segments.data(),
              permutation.shape(1),
              columns,
              base,
              k,
              patterns,
              values.data(),
              largest,
              reduce,
              scale.data(),
              scale_rows};
    require(index_.in() < rsr::columns_end(largest), "sums of so many columns overflow int32");
    require(permutation.shape(0) == index_.blocks() && segments.shape(0) == index_.blocks() &&
                segments.shape(1) == patterns + 1,
            "permutation must be (blocks, rows), segments (blocks, base^k + 1)");
    check_scale(scale, scale_rows, index_.out());
  }

  void multiply_i8(const Array<const int8_t, 2>& x, const Array<int32_t, 2>& y,
                   bool plus_plus) const {
    without_gil(product(x, y, index_.in(), index_.out(),
                        [&](auto... args) { rsr::multiply_i8(index_, plus_plus, args...); }));
  }

  void multiply_f32(const Array<const float, 2>& x, const Array<float, 2>& y,
                    bool plus_plus) const {
    without_gil(product(x, y, index_.in(), index_.out(),
                        [&](auto... args) { rsr::multiply_f32(index_, plus_plus, args...); }));
  }

 private:
  Array<const Index, 2> permutation_, segments_;
  Array<const int8_t, 1> values_;
  Array<const float, 1> scale_;
  rsr::PermutedIndex<Index> index_;
};

template <class T>
auto multiply_dense(const Array<const T, 2>& weight, const std::string& dtype,
                    const Array<const float, 2>& x, const Array<float, 2>& y) {
  rsr::DenseMatrix matrix{weight.data(), weight.shape(0), weight.shape(1), {}};
  if (dtype == "F32" && std::is_same_v<T, float>)
    matrix.dtype = rsr::DenseType::f32;
  else if (dtype == "BF16" && std::is_same_v<T, uint16_t>)
    matrix.dtype = rsr::DenseType::bf16;
  else if (dtype == "F16" && !std::is_same_v<T, float>)
    matrix.dtype = rsr::DenseType::f16;
  else
    throw std::invalid_argument(
        "dtype must be 'F32' with weights in float32, 'F16' in float16 or uint16, or 'BF16' in "
        "uint16; found '" +
        dtype + "'");
  return product(x, y, matrix.columns, matrix.rows,
                 [matrix, weight](auto... args) { rsr::multiply_dense(matrix, args...); });
}

template <class T>
void bind_multiply_dense(nb::module_& m, nb::class_<Program>& program, const char* doc) {
  bind_step(m, program, "multiply_dense", &multiply_dense<T>, doc, "weight"_a.noconvert(),
            "dtype"_a, "x"_a, "y"_a.noconvert());
}

auto multiply_rows_i8(const Array<const int8_t, 2>& weight, const Array<const float, 1>& scale,
                      const Array<const int8_t, 2>& q, const Array<const float, 2>& s,
                      const Array<float, 2>& y) {
  const size_t rows = weight.shape(0), columns = weight.shape(1);
  require(columns < size_t(1) << 17, "a row must have fewer than 2^17 weights: its sums are int32");
  require(scale.shape(0) == rows, "there must be a scale for each row");
  require(s.shape(0) == q.shape(0) && s.shape(1) == 1, "s must be (count, 1)");
  return product(q, y, columns, rows, [=](const int8_t* x, size_t count, float* to) {
    rsr::multiply_rows_i8(weight.data(), scale.data(), rows, columns, x, s.data(), count, to);
  });
}

template <class Index>
void bind_permuted(nb::module_& m, const char* name) {
  nb::class_<Permuted<Index>>(m, name,
                              "An index in encoding permuted: a permutation and a segment list for "
                              "each column block. The caller has checked their values.")
      .def(nb::init<Array<const Index, 2>, Array<const Index, 2>, size_t, int,
                    Array<const int8_t, 1>, bool, Array<const float, 1>, size_t>(),
           "permutation"_a, "segments"_a, "columns"_a, "k"_a, "values"_a, "reduce"_a, "scale"_a,
           "scale_rows"_a,
           "permutation: (blocks, rows). segments: (blocks, base^k + 1). values: (base,), what the "
           "digits stand for; base 2 to 5, k from 1 to 16. reduce: y = x A; otherwise y = A x, of "
           "the indexed matrix A (rows, columns). scale: one per scale_rows output rows. Raises "
           "ValueError for other shapes.")
      .def(
          "multiply_i8", &Permuted<Index>::multiply_i8, "x"_a, "y"_a.noconvert(), "plus_plus"_a,
          "y = W x for each row of x, exact and unscaled. x: (count, in_features). y: (count, "
          "out_features), written. plus_plus: step 2 of RSR++; otherwise of RSR. Raises ValueError "
          "for other shapes.")
      .def("multiply_f32", &Permuted<Index>::multiply_f32, "x"_a, "y"_a.noconvert(), "plus_plus"_a,
           "As multiply_i8, scaled, within n 2^-24 |scale| sum|x| for n = max(in_features, 3).");
}

}  // namespace

const rsr::RankedIndex* ranked_index(nb::handle object) {
  return nb::isinstance<Ranked>(object) ? &nb::cast<const Ranked&>(object).index() : nullptr;
}

void bind_products(nb::module_& m, nb::class_<Program>& program) {
  bind_step(m, program, "multiply_i8", &multiply_i8,
            "y[j] = x @ W[j].T, exact and unscaled.\n\n"
            "matrices share their input (shares_input). x: (count, in_features). y: for each "
            "matrix (count, out_features), written. Raises ValueError for other shapes.",
            "matrices"_a, "x"_a, "y"_a.noconvert());
  bind_step(
      m, program, "multiply_f32", &multiply_f32,
      "y[j] = x @ W[j].T, scaled, within n 2^-24 |scale| sum|x| for n = max(in_features, 3).\n\n"
      "matrices share their input (shares_input). x: (count, in_features). y: for each matrix "
      "(count, out_features), written. Raises ValueError for other shapes.",
      "matrices"_a, "x"_a, "y"_a.noconvert());
  bind_step(
      m, program, "multiply_quantized", &multiply_quantized,
      "y[j] = (q @ W[j].T) * scale / s: sums exact, then two roundings to float32.\n\n"
      "q: (count, in_features). s: (count, 1), as quantize_i8 returns both. y: for each matrix "
      "(count, out_features), written. Raises ValueError for other shapes.",
      "matrices"_a, "q"_a, "s"_a, "y"_a.noconvert());
  m.def("multiply_columns", &multiply_columns<int8_t, int32_t>, "matrices"_a, "x"_a.noconvert(),
        "y"_a.noconvert(),
        "y[j] = W[j] @ x, exact and unscaled.\n\n"
        "x: (in_features, count), C- or F-contiguous. y: for each matrix (out_features, count), "
        "written. Raises ValueError for other shapes.");
  m.def("multiply_columns", &multiply_columns<float, float>, "matrices"_a, "x"_a.noconvert(),
        "y"_a.noconvert(), "The same for float32, scaled and within the bound of multiply_f32.");
  m.def("multiply_quantizing", &multiply_quantizing, "matrices"_a, "x"_a, "y"_a.noconvert(),
        "multiply_quantized of q and s as quantize_i8 makes them of x.\n\n"
        "x: (count, in_features). y: for each matrix (count, out_features), written. Raises "
        "ValueError for other shapes.");
  m.def("multiply_group_quantizing", &multiply_group_quantizing, "matrices"_a, "x"_a,
        "y"_a.noconvert(),
        "multiply_group_quantized of q and steps as quantize_groups_i8 makes them of x, by groups "
        "of step_columns.\n\n"
        "x and y: as of multiply_quantizing.");
  bind_step(
      m, program, "multiply_group_quantized", &multiply_group_quantized,
      "y[j] = sum over groups of columns of (scale * step) * (the exact sum of q @ W[j].T).\n\n"
      "Without scales of groups, of groups of STEP_COLUMNS columns, and within n 2^-24 |scale| "
      "sum|q * step| for n = in_features + 2.\n\n"
      "matrices share their input (shares_input). q: (count, in_features). steps: (count, groups), "
      "what a unit of q stands for, as quantize_groups_i8 returns both. y: for each matrix (count, "
      "out_features), written. Raises ValueError for other shapes.",
      "matrices"_a, "q"_a, "steps"_a, "y"_a.noconvert());
  bind_multiply_dense<float>(
      m, program,
      "y = x @ weight.T, float32 sums within columns * 2^-24 * (|x| @ |weight|.T).\n\n"
      "weight: (rows, columns), as a file stores it. dtype: 'F32' with float32 weights, 'F16' "
      "with float16 or uint16, 'BF16' with uint16. x: (count, columns). y: (count, rows), "
      "written. Raises ValueError for another dtype or shape.");
  bind_multiply_dense<Half>(m, program, "The same for float16 weights.");
  bind_multiply_dense<uint16_t>(m, program, "The same for float16 or bfloat16 bits.");
  bind_step(m, program, "multiply_rows_i8", &multiply_rows_i8,
            "y = (q @ weight.T) * scale / s: sums exact, then two roundings to float32.\n\n"
            "weight: (rows, columns), columns < 2^17. scale: (rows,). q: (count, columns). s: "
            "(count, 1). y: (count, rows), written. Raises ValueError for other shapes.",
            "weight"_a.noconvert(), "scale"_a, "q"_a, "s"_a, "y"_a.noconvert());
}

constexpr const char* kTimes =
    "def times(self, x: object, most_dimensions: int) -> numpy.typing.NDArray[typing.Any] | None";
constexpr const char* kLinear =
    "def linear(self, x: object, activations: object) -> numpy.typing.NDArray[numpy.float32] | "
    "None";

void bind_indexes(nb::module_& m) {
  m.attr("STEP_COLUMNS") = rsr::kStepColumns;
  NumPy::get();
  nb::class_<Ranked>(m, "Ranked", "An index in encoding ranked. The caller has checked its ranks.")
      .def(nb::init<Array<const uint16_t, 1>, size_t, size_t, Array<const int16_t, 2>,
                    Array<const float, 1>, size_t, std::optional<Bytes>, size_t, size_t>(),
           "words"_a.noconvert(), "rows"_a, "columns"_a, "patterns"_a, "scale"_a, "scale_rows"_a,
           "group_scale"_a = nb::none(), "group_columns"_a = 0, "stride"_a = 1,
           "Packing w16.\n\n"
           "words: (padded rows * word columns,), strips of word columns (formats/SPEC.md). "
           "patterns: (k, count), the value of digit d in pattern p; k from 1 to 5, count up "
           "to 32; other ranks stand for zeros. scale: one per scale_rows rows. group_scale: "
           "replaces scale, (groups, rows) float16 or float32 as bytes, one group per "
           "group_columns columns. stride: from one input of a column block to "
           "the next. Raises ValueError for sizes that do not match.")
      .def(
          nb::init<Array<const uint8_t, 1>, size_t, size_t, Array<const int16_t, 2>,
                   Array<const float, 1>, size_t, std::optional<Bytes>, size_t>(),
          "bytes"_a.noconvert(), "rows"_a, "columns"_a, "patterns"_a, "scale"_a, "scale_rows"_a,
          "group_scale"_a = nb::none(), "group_columns"_a = 0,
          "Packing n4s1.\n\n"
          "bytes: (padded rows * bytes of a row,), strips of units. patterns: (3, count), those of "
          "three ternary digits in order. scale: one per scale_rows rows. group_scale and "
          "group_columns: as for w16; units end with every group. Raises ValueError for sizes that "
          "do not match.")
      .def(
          "times",
          [](const Ranked& a, nb::handle x, size_t most_dimensions) {
            return a.times(x, most_dimensions);
          },
          "x"_a.none(), "most_dimensions"_a, nb::sig(kTimes),
          "W @ x, as multiply_i8 or multiply_f32, in one call that checks x and allocates.\n\n"
          "x: (in_features,) or, if most_dimensions is 2, (in_features, count). Returns None, not "
          "an error, for what is no aligned, C- or F-contiguous numpy.ndarray of float32 or int8 "
          "of these shapes.")
      .def(
          "linear",
          [](const Ranked& a, nb::handle x, nb::handle activations) {
            return a.linear(x, activations);
          },
          "x"_a.none(), "activations"_a.none(), nb::sig(kLinear),
          "x @ W.T, in one call that checks x and allocates: as multiply_f32 for activations "
          "'float32', multiply_quantizing for 'int8', multiply_group_quantizing for "
          "'int8-group'.\n\n"
          "x: (..., in_features). Returns None, not an error, for what is no aligned, C-contiguous "
          "numpy.ndarray of float32 of this shape, and for other activations.")
      .def_prop_ro(
          "step_columns", [](const Ranked& a) { return a.index().step_columns(); },
          "Columns of a group of inputs that are quantized by groups: those of the scales, else "
          "STEP_COLUMNS.")
      .def(
          "shares_input",
          [](const Ranked& a, const Ranked& other) {
            return a.index().shares_input(other.index());
          },
          "other"_a,
          "Whether both read the same inputs, so that one product can serve both: packing, "
          "columns, k, stride, groups and patterns are equal.");
  bind_permuted<uint16_t>(m, "Permuted16");
  bind_permuted<uint32_t>(m, "Permuted32");
}
