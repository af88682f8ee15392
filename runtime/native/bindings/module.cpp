// The Python module: shapes, dtypes, contiguity, GIL; no arithmetic.
// rsr_runtime checks values (permutations, segment lists) before it hands arrays over.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <type_traits>

#include "bindings/program.h"
#include "decoder/activations.h"
#include "dense/dense.h"
#include "dispatch.h"
#include "parallel.h"
#include "permuted/permuted.h"
#include "ranked.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

struct Half {  // float16 as it lies in memory
  uint16_t bits;
};

}  // namespace

template <>
struct nanobind::detail::dtype_traits<Half> {
  static constexpr dlpack::dtype value{static_cast<uint8_t>(dlpack::dtype_code::Float), 16, 1};
  static constexpr auto name = const_name("float16");
};

namespace {

// Checks x (count, in) and y (count, out); returns what multiplies, which holds them.
template <class X, class Y, class Multiply>
auto product(const Array<const X, 2>& x, const Array<Y, 2>& y, size_t in, size_t out,
             const Multiply& multiply) {
  require(x.shape(1) == in && y.shape(1) == out && x.shape(0) == y.shape(0),
          "x must be (count, in_features) and y (count, out_features)");
  return [=] { multiply(x.data(), x.shape(0), y.data()); };
}

void check_scale(const Array<const float, 1>& scale, size_t scale_rows, size_t out) {
  require(scale_rows > 0 && scale.shape(0) * scale_rows >= out, "too few scales");
}

using Bytes = Array<const uint8_t, 2>;

class Ranked {
 public:
  // Words are packing w16, bytes packing n4s1, whose patterns are all of three ternary digits.
  // group_scale: instead of `scale`, (groups, rows) float16 or float32 as bytes.
  // stride: from one column of a block to the next.
  Ranked(Array<const uint16_t, 1> words, size_t rows, size_t columns,
         Array<const int16_t, 2> patterns, Array<const float, 1> scale, size_t scale_rows,
         std::optional<Bytes> group_scale, size_t group_columns, size_t stride)
      : words_(words), patterns_(patterns), scale_(scale), group_scale_(group_scale) {
    set_index(rsr::Packing::w16, words.data(), rows, columns, scale_rows);
    if (group_scale) set_groups(*group_scale, group_columns);
    if (stride != 1) set_stride(stride);
    check_size(words.nbytes());
  }

  Ranked(Array<const uint8_t, 1> bytes, size_t rows, size_t columns,
         Array<const int16_t, 2> patterns, Array<const float, 1> scale, size_t scale_rows)
      : bytes_(bytes), patterns_(patterns), scale_(scale) {
    require(patterns.shape(0) == 3, "packing n4s1 needs k = 3");
    set_index(rsr::Packing::n4s1, bytes.data(), rows, columns, scale_rows);
    check_size(bytes.nbytes());
  }

  const rsr::RankedIndex& index() const { return index_; }

 private:
  void set_index(rsr::Packing packing, const void* data, size_t rows, size_t columns,
                 size_t scale_rows) {
    const int k = static_cast<int>(patterns_.shape(0));
    require(1 <= k && k <= 5 && patterns_.shape(1) == 32,
            "patterns must be (k, 32), k from 1 to 5");
    check_scale(scale_, scale_rows, rows);
    index_ = {packing,
              static_cast<const uint8_t*>(data),
              rows,
              columns,
              k,
              patterns_.data(),
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
  Array<const int16_t, 2> patterns_;
  Array<const float, 1> scale_;
  std::optional<Bytes> group_scale_;
  rsr::RankedIndex index_;
};

using Matrices = std::vector<const Ranked*>;

// y[j][i] = W[j] x[i]; all matrices have one input. Results do not depend on who is beside whom.
template <class X, class Y, class Multiply>
auto ranked_products(const Matrices& matrices, const Array<const X, 2>& x,
                     const std::vector<Array<Y, 2>>& y, const Multiply& multiply) {
  require(!matrices.empty() && matrices.size() == y.size(), "each matrix needs its y");
  std::vector<rsr::RankedProduct<Y>> products;
  std::vector<nb::object> held;
  for (size_t j = 0; j < y.size(); j++) {
    const rsr::RankedIndex& index = matrices[j]->index();
    require(index.shares_input(matrices[0]->index()), "the matrices must have one input");
    require(
        x.shape(1) == index.columns && y[j].shape(1) == index.rows && x.shape(0) == y[j].shape(0),
        "x must be (count, in_features) and y (count, out_features)");
    products.push_back({&index, y[j].data()});
    held.push_back(nb::find(matrices[j]));
  }
  return [products = std::move(products), held = std::move(held), x, y, multiply] {
    multiply(products.data(), products.size(), x.data(), x.shape(0));
  };
}

auto multiply_i8(const Matrices& matrices, const Array<const int8_t, 2>& x,
                 const std::vector<Array<int32_t, 2>>& y) {
  return ranked_products(matrices, x, y, [](auto... a) { rsr::multiply_i8(a...); });
}

auto multiply_f32(const Matrices& matrices, const Array<const float, 2>& x,
                  const std::vector<Array<float, 2>>& y) {
  return ranked_products(matrices, x, y, [](auto... a) { rsr::multiply_f32(a...); });
}

auto multiply_quantized(const Matrices& matrices, const Array<const int8_t, 2>& q,
                        const Array<const float, 2>& s, const std::vector<Array<float, 2>>& y) {
  require(s.shape(0) == q.shape(0) && s.shape(1) == 1, "s must be (count, 1)");
  return ranked_products(matrices, q, y, [s](auto products, size_t size, auto x, size_t count) {
    rsr::multiply_quantized(products, size, x, s.data(), count);
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
    require(2 <= base && base <= 3 && 1 <= k && k <= 16, "base must be 2 or 3, k from 1 to 16");
    size_t patterns = 1;
    for (int i = 0; i < k; i++) patterns *= base;
    index_ = {
        permutation.data(), segments.data(), permutation.shape(1), columns,   base, k, patterns,
        values.data(),      reduce,          scale.data(),         scale_rows};
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
void bind_multiply_dense(nb::module_& m, nb::class_<Program>& program) {
  bind_step(m, program, "multiply_dense", &multiply_dense<T>, "weight"_a.noconvert(), "dtype"_a,
            "x"_a, "y"_a.noconvert());
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
  nb::class_<Permuted<Index>>(m, name)
      .def(nb::init<Array<const Index, 2>, Array<const Index, 2>, size_t, int,
                    Array<const int8_t, 1>, bool, Array<const float, 1>, size_t>(),
           "permutation"_a, "segments"_a, "columns"_a, "k"_a, "values"_a, "reduce"_a, "scale"_a,
           "scale_rows"_a)
      .def("multiply_i8", &Permuted<Index>::multiply_i8, "x"_a, "y"_a.noconvert(), "plus_plus"_a)
      .def("multiply_f32", &Permuted<Index>::multiply_f32, "x"_a, "y"_a.noconvert(), "plus_plus"_a);
}

}  // namespace

NB_MODULE(_native, m) {
  // A matrix that still lives when the interpreter exits (in a daemon thread, say) is no error.
  nb::set_leak_warnings(false);

  nb::class_<Ranked>(m, "Ranked")
      .def(nb::init<Array<const uint16_t, 1>, size_t, size_t, Array<const int16_t, 2>,
                    Array<const float, 1>, size_t, std::optional<Bytes>, size_t, size_t>(),
           "words"_a.noconvert(), "rows"_a, "columns"_a, "patterns"_a, "scale"_a, "scale_rows"_a,
           "group_scale"_a = nb::none(), "group_columns"_a = 0, "stride"_a = 1)
      .def(nb::init<Array<const uint8_t, 1>, size_t, size_t, Array<const int16_t, 2>,
                    Array<const float, 1>, size_t>(),
           "bytes"_a.noconvert(), "rows"_a, "columns"_a, "patterns"_a, "scale"_a, "scale_rows"_a)
      .def(
          "shares_input",
          [](const Ranked& a, const Ranked& other) {
            return a.index().shares_input(other.index());
          },
          "other"_a);
  nb::class_<Program> program = bind_program(m);
  bind_step(m, program, "multiply_i8", &multiply_i8, "matrices"_a, "x"_a, "y"_a.noconvert());
  bind_step(m, program, "multiply_f32", &multiply_f32, "matrices"_a, "x"_a, "y"_a.noconvert());
  bind_step(m, program, "multiply_quantized", &multiply_quantized, "matrices"_a, "q"_a, "s"_a,
            "y"_a.noconvert());
  bind_permuted<uint16_t>(m, "Permuted16");
  bind_permuted<uint32_t>(m, "Permuted32");

  m.def(
      "quantize_i8",
      [](const Array<const float, 2>& x, const Array<int8_t, 2>& q, const Array<float, 2>& s) {
        const size_t count = x.shape(0), n = x.shape(1);
        require(q.shape(0) == count && q.shape(1) == n && s.shape(0) == count && s.shape(1) == 1,
                "q must have the shape of x, s (count, 1)");
        const float* from = x.data();
        int8_t* to = q.data();
        float* scales = s.data();
        without_gil([&] { rsr::quantize_i8(from, count, n, to, scales); });
      },
      "x"_a, "q"_a.noconvert(), "s"_a.noconvert());
  bind_decoder(m, program);
  bind_multiply_dense<float>(m, program);
  bind_multiply_dense<Half>(m, program);
  bind_multiply_dense<uint16_t>(m, program);
  bind_step(m, program, "multiply_rows_i8", &multiply_rows_i8, "weight"_a.noconvert(), "scale"_a,
            "q"_a, "s"_a, "y"_a.noconvert());
  m.def("compiled_isas", &rsr::compiled_isas);
  m.def("supported_isas", &rsr::supported_isas);
  m.def("isa", [] { return std::string(rsr::kernels().isa); });
  m.def("use_isa", &rsr::use_isa, "name"_a);
  m.def("num_threads", &rsr::num_threads);
  m.def("set_num_threads", &rsr::set_num_threads, "n"_a);
  m.def(
      "plain_read",
      [](const Array<const uint8_t, 1>& data) {
        const uint8_t* p = data.data();
        const size_t bytes = data.nbytes();
        uint64_t sum = 0;
        without_gil([&] { sum = rsr::kernels().plain_read(p, bytes); });
        return sum;
      },
      "data"_a);
}
