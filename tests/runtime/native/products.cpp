// Products through the runtime's own driver, on several threads and from several at once, with the
// instruction set in use, against the definition of a product.
#include <algorithm>
#include <thread>

#include "decoder/activations.h"
#include "dispatch.h"
#include "harness.h"
#include "parallel.h"
#include "ranked.h"

namespace harness {
namespace {

struct Matrix {
  size_t rows, columns;
  std::vector<int16_t> patterns;
  std::vector<uint8_t> data;
  std::vector<int8_t> weights;  // (rows, columns)
  std::vector<float> scale;
  rsr::RankedIndex index{};

  // Ternary, k = 3, packing w16.
  Matrix(size_t rows, size_t columns)
      : rows(rows), columns(columns), patterns(3 * rsr::kPatterns), weights(rows * columns) {
    for (int p = 0; p < 27; p++)
      for (int d = 0, value = p; d < 3; d++, value /= 3)
        patterns[(2 - d) * rsr::kPatterns + p] = static_cast<int16_t>(value % 3 - 1);
    for (size_t r = 0; r < rows; r++) scale.push_back(normal());
    index.packing = rsr::Packing::w16;
    index.rows = rows;
    index.columns = columns;
    index.k = 3;
    index.patterns = patterns.data();
    index.largest_digit = 1;
    index.scale = scale.data();
    index.scale_rows = 1;
    const size_t words = index.index_columns(), padded = index.padded_rows();
    data.resize(index.bytes());
    index.data = data.data();
    for (size_t r = 0; r < padded; r++) {
      const size_t strip = r / rsr::W16::kStripRows * rsr::W16::kStripRows;
      const size_t height = std::min(rsr::W16::kStripRows, padded - strip);
      for (size_t w = 0; w < words; w++) {
        unsigned word = 0;
        for (size_t j = 0; j < rsr::W16::kBlocks; j++) {
          const size_t rank = below(27);
          word |= static_cast<unsigned>(rank << rsr::W16::kRankBits * j);
          for (size_t d = 0; d < 3; d++) {
            const size_t column = (w * rsr::W16::kBlocks + j) * 3 + d;
            if (r < rows && column < columns)
              weights[r * columns + column] =
                  static_cast<int8_t>(patterns[d * rsr::kPatterns + rank]);
          }
        }
        const uint16_t bits = static_cast<uint16_t>(word);
        std::memcpy(&data[(strip * words + w * height + r - strip) * 2], &bits, 2);
      }
    }
  }
};

template <class T>
std::vector<T> transposed(const T* from, size_t rows, size_t columns) {
  std::vector<T> to(rows * columns);
  for (size_t i = 0; i < to.size(); i++) to[i % columns * rows + i / columns] = from[i];
  return to;
}

// Vectors in rows or in columns, of inputs and outputs: the same bits.
void check_orders(const Matrix& a, size_t count, const std::vector<int8_t>& x,
                  const std::vector<float>& wide, Guarded<int32_t>& exact, Guarded<float>& floats) {
  using rsr::Order;
  const auto x_columns = transposed(x.data(), count, a.columns);
  const auto wide_columns = transposed(wide.data(), count, a.columns);
  for (Order from : {Order::rows, Order::columns})
    for (Order to : {Order::rows, Order::columns}) {
      Guarded<int32_t> y(count * a.rows, 77);
      Guarded<float> z(count * a.rows, 77.0f);
      const rsr::RankedProduct<int32_t> to_exact{&a.index, y.data()};
      const rsr::RankedProduct<float> to_floats{&a.index, z.data()};
      const bool in_rows = from == Order::rows, is_row = to == Order::rows;
      rsr::multiply_i8(&to_exact, 1, in_rows ? x.data() : x_columns.data(), count, {from, to});
      rsr::multiply_f32(&to_floats, 1, in_rows ? wide.data() : wide_columns.data(), count,
                        {from, to});
      y.check_guards();
      z.check_guards();
      const auto rows = is_row ? std::vector<int32_t>(y.data(), y.data() + count * a.rows)
                               : transposed(y.data(), a.rows, count);
      const auto float_rows = is_row ? std::vector<float>(z.data(), z.data() + count * a.rows)
                                     : transposed(z.data(), a.rows, count);
      expect_same_bits(rows.data(), exact.data(), rows.size(), "int8 in another order");
      expect_same_bits(float_rows.data(), floats.data(), rows.size(), "float32 in another order");
    }
}

// Quantization inside of the product: the same bits as apart.
void check_quantizing(const Matrix& a, size_t count, const std::vector<float>& x) {
  std::vector<int8_t> q(x.size());
  std::vector<float> s(count);
  Guarded<float> apart(count * a.rows, 77.0f), inside(count * a.rows, 77.0f);
  const rsr::RankedProduct<float> to_apart{&a.index, apart.data()}, to{&a.index, inside.data()};
  rsr::quantize_i8(x.data(), count, a.columns, q.data(), s.data());
  rsr::multiply_quantized(&to_apart, 1, q.data(), s.data(), count);
  rsr::multiply_quantizing(&to, 1, x.data(), count);
  inside.check_guards();
  expect_same_bits(inside.data(), apart.data(), inside.size(), "quantized in the product");
}

void check(const Matrix& a, size_t count) {
  std::vector<int8_t> x;
  std::vector<float> divisors(count, 3.0f), wide;
  for (size_t v = 0; v < count; v++) {
    const std::vector<int8_t> one = int8_inputs(a.columns, v);
    x.insert(x.end(), one.begin(), one.end());
  }
  wide.assign(x.begin(), x.end());
  Guarded<int32_t> exact(count * a.rows, 77);
  Guarded<float> scaled(count * a.rows, 77.0f), floats(count * a.rows, 77.0f);
  const rsr::RankedProduct<int32_t> to_exact{&a.index, exact.data()};
  const rsr::RankedProduct<float> to_scaled{&a.index, scaled.data()},
      to_floats{&a.index, floats.data()};
  rsr::multiply_i8(&to_exact, 1, x.data(), count);
  rsr::multiply_quantized(&to_scaled, 1, x.data(), divisors.data(), count);
  rsr::multiply_f32(&to_floats, 1, wide.data(), count);
  exact.check_guards();
  scaled.check_guards();
  floats.check_guards();
  check_orders(a, count, x, wide, exact, floats);
  check_quantizing(a, count, wide);
  for (size_t v = 0; v < count; v++)
    for (size_t r = 0; r < a.rows; r++) {
      int32_t sum = 0;
      for (size_t c = 0; c < a.columns; c++)
        sum += a.weights[r * a.columns + c] * x[v * a.columns + c];
      const float product = static_cast<float>(sum) * a.scale[r];
      expect(exact[v * a.rows + r], sum, 0, "int8: vector, row", v, r);
      expect(scaled[v * a.rows + r], product / 3.0f, 0, "quantized: vector, row", v, r);
      expect(floats[v * a.rows + r], product, 0, "float32: vector, row", v, r);  // sums are exact
    }
}

// Groups of two columns: each adds a rounding, so no kernel may spend the bound on its inputs, and
// the sums are as precise as those of a vector alone.
void check_narrow_groups() {
  constexpr size_t kColumns = 512, kVectors = 20, kGroup = 2, kGroups = kColumns / kGroup;
  Matrix a(40, kColumns);
  std::vector<float> scales(kGroups * a.rows);
  for (float& scale : scales) scale = static_cast<float>(1 + uniform());
  a.index.groups = {kGroup, scales.data(), false};
  constexpr uint16_t kOnes = 26 * (1 + 32 + 1024);  // digits of 1 everywhere
  std::vector<uint16_t> data(a.index.bytes() / sizeof kOnes, kOnes);
  a.index.data = reinterpret_cast<const uint8_t*>(data.data());
  constexpr size_t kHalves = 11;  // rounded up in bfloat16
  std::vector<float> x;
  for (size_t v = 0; v < kVectors; v++) {
    const std::vector<float> one = float_inputs(kColumns, kHalves);
    x.insert(x.end(), one.begin(), one.end());
  }
  std::vector<float> y(kVectors * a.rows);
  const rsr::RankedProduct<float> to{&a.index, y.data()};
  rsr::multiply_f32(&to, 1, x.data(), kVectors);
  for (size_t v = 0; v < kVectors; v++)
    for (size_t r = 0; r < a.rows; r++) {
      double sum = 0;
      for (size_t g = 0; g < kGroups; g++)
        sum += static_cast<double>(scales[g * a.rows + r]) * (2.0 * x[0]);
      expect(y[v * a.rows + r], sum, 32 * std::ldexp(sum, -24), "groups of two: vector, row", v, r);
    }
}

}  // namespace

void check_products() {
  for (const std::string& isa : rsr::supported_isas()) {
    rsr::use_isa(isa);
    for (int threads : {1, 3}) {
      rsr::set_num_threads(threads);
      for (size_t rows : {1, 31, 33, 129, 300})
        for (size_t columns : {1, 8, 9, 10, 77, 145})
          check(Matrix(rows, columns), pick<size_t>({1, 2, 7, 17, 40}));
    }
    const Matrix large(1500, 900);  // enough for three threads
    const auto alone = [&large] { check(large, 20); };
    std::thread other(alone);
    check(large, 17);
    other.join();
    check(Matrix(40, 30), 600);  // more than a pass
    check_narrow_groups();
  }
}

}  // namespace harness
