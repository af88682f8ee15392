// Slots w16_i8, w16_f32, n4s1_i8, n4s1_f32: the kernels of encoding ranked.
#include <algorithm>
#include <cstdlib>
#include <memory>

#include "float16.h"
#include "harness.h"

namespace harness {
namespace {

using rsr::kPatterns;
using rsr::kRowUnit;
using rsr::N4S1;
using rsr::W16;

size_t divide_up(size_t a, size_t b) { return (a + b - 1) / b; }

enum class Fill { random, lowest, highest, bytes };

// An index of random ranks, of the lowest or the highest, or of any bytes, and the weights that it
// stands for. A rank that is no pattern, which a file never has, stands for zeros.
template <class Packing>
struct Index {
  size_t rows, columns, blocks, inputs;
  int k;
  Fill fill;
  rsr::Grouping grouping = {0, 0};  // of N4S1, if it has groups
  size_t row_bytes;
  std::vector<int16_t> patterns;
  std::vector<float> float_patterns;
  Guarded<uint8_t> bytes;
  std::vector<int8_t> weights;  // (rows, inputs)
  bool has_few_patterns = false;

  Index(size_t rows, size_t columns, int k, const std::vector<int>& digits, Fill fill)
      : rows(rows),
        columns(columns),
        blocks(columns * Packing::kBlocks),
        inputs(blocks * k),
        k(k),
        fill(fill),
        row_bytes(columns * Packing::kCellBytes),
        patterns(k * kPatterns),
        bytes(rows * row_bytes),
        weights(rows * inputs) {
    fill_ranks(digits);
  }

  // Packing n4s1 with groups of columns.
  Index(size_t rows, const rsr::Grouping& grouping, Fill fill)
      : rows(rows),
        columns(divide_up(grouping.blocks, N4S1::kBlocks)),
        blocks(grouping.blocks),
        inputs(blocks * N4S1::kK),
        k(N4S1::kK),
        fill(fill),
        grouping(grouping),
        row_bytes(grouping.blocks / grouping.blocks_per_group *
                      N4S1::group_bytes(grouping.blocks_per_group) +
                  N4S1::group_bytes(grouping.blocks % grouping.blocks_per_group)),
        patterns(k * kPatterns),
        bytes(rows * row_bytes),
        weights(rows * inputs) {
    fill_ranks({-1, 0, 1});
  }

  void fill_ranks(const std::vector<int>& digits) {
    const int base = static_cast<int>(digits.size());
    int all = 1;
    for (int d = 0; d < k; d++) all *= base;
    const int count = std::min(kPatterns, all);  // if there are more patterns, some are listed
    for (int p = 0; p < count; p++)
      for (int d = k, rest = p * all / count; d-- > 0; rest /= base)
        patterns[d * kPatterns + p] = static_cast<int16_t>(digits[rest % base]);
    has_few_patterns = count <= rsr::kFewPatterns;
    float_patterns.assign(patterns.begin(), patterns.end());
    for (size_t i = 0; i < bytes.size(); i++) bytes[i] = static_cast<uint8_t>(below(256));
    for (size_t r = 0; r < rows; r++)
      for (size_t b = 0; b < blocks; b++) {
        if (fill != Fill::bytes)
          set_rank(r, b,
                   fill == Fill::lowest    ? 0
                   : fill == Fill::highest ? count - 1
                                           : static_cast<int>(below(count)));
        for (int d = 0; d < k; d++) weights[r * inputs + b * k + d] = weight(r, b, d);
      }
  }

  uint8_t* strip_of(size_t row) {
    return bytes.data() + row / Packing::kStripRows * Packing::kStripRows * row_bytes;
  }

  // Where a row of a block is.
  struct Place {
    uint8_t* cell;   // of W16: its word; of N4S1: its byte in the first vector of the unit
    uint8_t* signs;  // of N4S1
    size_t j;        // the block in the word or unit
  };
  Place place(size_t row, size_t block) {
    const size_t r = row % Packing::kStripRows;
    uint8_t* const strip = strip_of(row);
    if constexpr (std::is_same_v<Packing, W16>)
      return {strip + (block / W16::kBlocks * height(row) + r) * 2, nullptr, block % W16::kBlocks};
    const size_t most = grouping.blocks ? grouping.blocks_per_group : blocks;
    const size_t group = block / most, i = block % most;
    const size_t unit = i / N4S1::kBlocks, j = i % N4S1::kBlocks;
    const size_t n = std::min({N4S1::kBlocks, most - i + j, blocks - block + j});
    uint8_t* const cell =
        strip + (group * N4S1::group_bytes(most) + unit * N4S1::kCellBytes) * height(row) + r;
    return {cell, cell + (N4S1::unit_bytes(n) - 1) * height(row), j};
  }
  size_t height(size_t row) const {
    return std::min(Packing::kStripRows, rows - row / Packing::kStripRows * Packing::kStripRows);
  }

  void set_rank(size_t row, size_t block, int rank) {
    const auto [cell, signs, j] = place(row, block);
    if constexpr (std::is_same_v<Packing, W16>) {
      uint16_t word;
      std::memcpy(&word, cell, 2);
      word = static_cast<uint16_t>((word & ~(31 << 5 * j)) | rank << 5 * j);
      std::memcpy(cell, &word, 2);
    } else {
      const int value = rank - N4S1::kZeroRank, magnitude = std::abs(value);
      uint8_t& pair = cell[j / 2 * height(row)];
      pair = static_cast<uint8_t>((pair & (j % 2 ? 15 : 240)) | magnitude << 4 * (j % 2));
      *signs = static_cast<uint8_t>((*signs & ~(128 >> j)) | (value < 0 ? 128 >> j : 0));
    }
  }

  int8_t weight(size_t row, size_t block, int d) {
    const auto [cell, signs, j] = place(row, block);
    const int16_t* values = patterns.data() + d * kPatterns;
    if constexpr (std::is_same_v<Packing, W16>) {
      uint16_t word;
      std::memcpy(&word, cell, 2);
      return static_cast<int8_t>(values[word >> 5 * j & 31]);
    } else {
      const int magnitude = cell[j / 2 * height(row)] >> 4 * (j % 2) & 15;
      const int value = values[N4S1::kZeroRank + magnitude];
      return static_cast<int8_t>(*signs >> (7 - j) & 1 ? -value : value);
    }
  }

  rsr::RankedRows wanted(size_t strip, size_t first, size_t last) {
    return {strip_of(strip), first - strip,   last - strip,
            rows - strip,    columns,         rsr::columns_per_widen<Packing>(k, largest_digit()),
            grouping,        has_few_patterns};
  }

  int largest_digit() const { return rsr::largest_digit(patterns.data(), k); }

  const auto* patterns_of(const int8_t*) const { return patterns.data(); }
  const auto* patterns_of(const float*) const { return float_patterns.data(); }
};

// Vectors of worst-case inputs, and what they give: (count, rows), and the sum of magnitudes.
template <class X>
struct Inputs {
  size_t count, n;
  Guarded<X> x;
  int largest_digit;
  std::vector<double> magnitudes;
  std::vector<double> sums;

  template <class Packing>
  Inputs(const Index<Packing>& a, size_t count)
      : count(count),
        n(a.inputs),
        x(count * n),
        largest_digit(a.largest_digit()),
        magnitudes(count),
        sums(count * a.rows) {
    for (size_t v = 0; v < count; v++) {
      std::vector<X> one;
      if constexpr (std::is_same_v<X, int8_t>)
        one = int8_inputs(n, v);
      else
        one = float_inputs(n, a.fill == Fill::bytes && v % kFloatKinds == kNotFinite ? 0 : v);
      std::copy(one.begin(), one.end(), x.data() + v * n);
      for (size_t i = 0; i < n; i++) magnitudes[v] += std::fabs(static_cast<double>(one[i]));
      for (size_t r = 0; r < a.rows; r++) {
        const int8_t* w = a.weights.data() + r * n;
        double sum = 0;
        if constexpr (std::is_same_v<X, int8_t>) {
          int32_t exact = 0;
          for (size_t i = 0; i < n; i++) exact += w[i] * one[i];
          sum = exact;
        } else {
          for (size_t i = 0; i < n; i++) sum += w[i] * static_cast<double>(one[i]);
        }
        sums[v * a.rows + r] = sum;
      }
    }
  }

  // Whether a float32 product y of vector v may overflow, and does: digits above 1 in magnitude
  // make sums that exceed the sum of magnitudes.
  bool overflows(size_t v, double y) const {
    constexpr double kMost = std::numeric_limits<float>::max();
    return !std::is_same_v<X, int8_t> && magnitudes[v] <= kMost &&
           magnitudes[v] * largest_digit > kMost && !std::isfinite(y);
  }

  // Of a float32 product; of an int8 product 0.
  double bound(size_t v) const {
    if (std::is_same_v<X, int8_t> || !std::isfinite(magnitudes[v])) return 0;
    return static_cast<double>(std::max<size_t>(n, 3)) * largest_digit *
           std::ldexp(magnitudes[v], -24);
  }
};

template <class X>
struct Slots {
  const char *vector, *small_batch, *medium_batch, *large_batch, *grouped;
};

template <class Kernel, class Packing, class X>
std::unique_ptr<Guarded<char>> tables_of(const Kernel& kernel, Index<Packing>& a, const X* x) {
  auto tables =
      std::make_unique<Guarded<char>>(kernel.header_bytes + a.blocks * kernel.table_bytes);
  kernel.build_tables(x, a.patterns_of(x), a.k, a.blocks, tables->data());
  tables->check_guards();
  return tables;
}

// The tables of a product with groups.
template <class Kernel, class Packing, class X>
std::unique_ptr<Guarded<char>> grouped_tables_of(const Kernel& kernel, Index<Packing>& a,
                                                 const rsr::Grouping& grouping, const X* x) {
  if (!kernel.build_grouped_tables) return tables_of(kernel, a, x);
  auto tables =
      std::make_unique<Guarded<char>>(kernel.header_bytes + a.blocks * kernel.table_bytes);
  kernel.build_grouped_tables(x, a.patterns_of(x), a.k, grouping, tables->data());
  tables->check_guards();
  return tables;
}

// y = the product of one vector, strip by strip, in pieces of random height.
template <class Kernel, class Packing, class X, class Y>
void multiply_vector(const Kernel& kernel, Index<Packing>& a, const X* x, Y* y) {
  const auto tables = tables_of(kernel, a, x);
  for (size_t strip = 0; strip < a.rows; strip += Packing::kStripRows)
    for (size_t r = strip, end = strip + a.height(strip), last; r < end; r = last) {
      last = r + kRowUnit * (1 + below((end - r) / kRowUnit));
      Guarded<Y> part(last - r, Y(77));
      kernel.lookup(a.wanted(strip, r, last), tables->data(), part.data());
      part.check_guards();
      std::copy_n(part.data(), last - r, y + r);
    }
}

template <class Kernel, class Packing, class X>
void check_vector(const Kernel& kernel, Index<Packing>& a, Inputs<X>& in) {
  using Y = std::conditional_t<std::is_same_v<X, int8_t>, int32_t, float>;
  for (size_t v = 0; v < std::min(in.count, kFloatKinds); v++) {
    std::vector<Y> y(a.rows);
    multiply_vector(kernel, a, in.x.data() + v * in.n, y.data());
    for (size_t r = 0; r < a.rows; r++)
      if (!in.overflows(v, y[r]))
        expect(y[r], in.sums[v * a.rows + r], in.bound(v), "vector, row", v, r);
  }
}

// Those of the first `count` vectors that a pass takes.
template <class Kernel, class X>
std::vector<size_t> taken_of(const Kernel& kernel, Inputs<X>& in, size_t count) {
  std::vector<size_t> taken;
  for (size_t v = 0; v < std::min({count, in.count, kernel.max_vectors}); v++)
    if (!kernel.takes || kernel.takes(in.x.data() + v * in.n, in.n)) taken.push_back(v);
  return taken;
}

template <class X>
void copy_inputs(Inputs<X>& in, const std::vector<size_t>& taken, Guarded<X>& x) {
  for (size_t i = 0; i < taken.size(); i++)
    std::copy_n(in.x.data() + taken[i] * in.n, in.n, x.data() + i * in.n);
}

// The vectors `taken`, prepared in pieces as threads do, times rows [first, last).
template <class Kernel, class Packing, class X, class Y>
void multiply_batch(const Kernel& kernel, Index<Packing>& a, Inputs<X>& in,
                    const std::vector<size_t>& taken, size_t first, size_t last, Guarded<Y>& y) {
  const size_t count = taken.size();
  Guarded<X> inputs(count * in.n);
  copy_inputs(in, taken, inputs);
  const X* x = inputs.data();
  Guarded<char> shared(kernel.shared_bytes(a.columns, a.k, count));
  Guarded<char> per_thread(kernel.per_thread_bytes(a.columns, a.k, count));
  const size_t pieces = divide_up(count, kernel.prepare_step);
  for (size_t piece = pieces; piece-- > 0;)
    kernel.prepare(x, a.patterns_of(x), a.k, a.columns, count, piece * kernel.prepare_step,
                   std::min(count, (piece + 1) * kernel.prepare_step), shared.data());
  const size_t strip = first / Packing::kStripRows * Packing::kStripRows, stride = last - first;
  kernel.multiply(a.wanted(strip, first, last), a.patterns_of(x), a.k, shared.data(), count,
                  per_thread.data(), y.data(), stride);
  shared.check_guards();
  per_thread.check_guards();
  y.check_guards();
}

template <class Kernel, class Packing, class X>
void check_batch(const Kernel& kernel, Index<Packing>& a, Inputs<X>& in, size_t count) {
  using Y = std::conditional_t<std::is_same_v<X, int8_t>, int32_t, float>;
  const std::vector<size_t> taken = taken_of(kernel, in, count);
  if (taken.empty()) return;
  const size_t first = below(2) ? 0 : kRowUnit * below(a.rows / kRowUnit);
  const size_t last = first + kRowUnit * (1 + below((a.rows - first) / kRowUnit));
  Guarded<Y> y(taken.size() * (last - first), Y(77));
  multiply_batch(kernel, a, in, taken, first, last, y);
  for (size_t i = 0; i < taken.size(); i++)
    for (size_t r = first; r < last; r++)
      if (const auto found = y[i * (last - first) + r - first]; !in.overflows(taken[i], found))
        expect(found, in.sums[taken[i] * a.rows + r], in.bound(taken[i]), "vector, row of a batch",
               taken[i], r);
}

// Scales of groups: of float16 and float32, with blocks that reach over words; of int8, perhaps
// with steps of the inputs.
template <class Packing, class X>
struct Groups {
  rsr::Grouping grouping;
  size_t count, stride, entry;
  Guarded<char> scales;
  std::vector<double> values;  // of the scales
  Guarded<float> steps;        // (vectors, groups)
  bool has_steps;

  Groups(const Index<Packing>& a, size_t vectors)
      : grouping(a.grouping.blocks ? a.grouping : random_grouping(a)),
        count(rsr::group_count(grouping)),
        stride(a.rows + below(3)),
        entry(pick<size_t>({2, 4})),
        scales(count * stride * entry),
        values(count * stride),
        steps(vectors * count),
        has_steps(std::is_same_v<X, int8_t> && below(2)) {
    for (size_t i = 0; i < values.size(); i++) {
      const float scale = normal();
      const uint16_t half = rsr::to_half(scale);
      entry == 2 ? std::memcpy(scales.data() + 2 * i, &half, 2)
                 : std::memcpy(scales.data() + 4 * i, &scale, 4);
      values[i] = entry == 2 ? rsr::from_half(half) : scale;
    }
    for (size_t i = 0; i < steps.size(); i++) steps[i] = normal();
  }

  static rsr::Grouping random_grouping(const Index<Packing>& a) {
    const size_t widen = W16::kBlocks * rsr::columns_per_widen<W16>(a.k, a.largest_digit());
    const size_t blocks = a.blocks - below(std::min<size_t>(3, a.blocks));
    const size_t whole =
        std::min(blocks, pick<size_t>({1, 2, 3, 4, 7, 11, 16, 22, 26, 43, widen - 1, widen,
                                       widen + 1, 1 + below(60)}));
    return {whole, blocks, whole * a.k - below(a.k)};
  }

  // Clears the inputs that pad groups.
  void pad(const Index<Packing>& a, X* x) const {
    for (size_t b = 0; b < grouping.blocks; b = rsr::group_end(grouping, b))
      std::fill(x + b * a.k + rsr::inputs_of_group(grouping, b, a.k),
                x + rsr::group_end(grouping, b) * a.k, X(0));
  }

  // Kernels read the scales of the rows wanted of each group, and may prefetch more.
  rsr::GroupScales from(size_t first, size_t vector) {
    return {scales.data() + first * entry, stride, entry == 2, grouping,
            has_steps ? steps.data() + vector * count : nullptr};
  }

  // Compares y, rows [first, last) of the product with x, vector v.
  void check(Index<Packing>& a, const X* x, size_t v, const float* y, size_t first, size_t last) {
    for (size_t r = first; r < last; r++) {
      double sum = 0, bound = 0, largest = 0;  // largest: of sums on the way
      for (size_t g = 0, b = 0; g < count; g++) {
        double part = 0, magnitude = 0;
        for (size_t i = b * a.k; i < b * a.k + rsr::inputs_of_group(grouping, b, a.k); i++) {
          part += a.weights[r * a.inputs + i] * static_cast<double>(x[i]);
          magnitude += std::fabs(static_cast<double>(x[i]));
        }
        b = rsr::group_end(grouping, b);
        const double scale = values[g * stride + r] * (has_steps ? steps[v * count + g] : 1);
        sum += scale * part;
        magnitude *= a.largest_digit();
        bound += std::fabs(scale) * magnitude;
        largest = std::max({largest, magnitude, bound});
      }
      if (!std::isfinite(bound)) {
        if (std::isfinite(y[r - first])) expect(y[r - first], sum, 0, "row, not finite", r);
        continue;
      }
      const double terms =
          static_cast<double>(std::is_same_v<X, int8_t> ? count + 3 : a.inputs + 3);
      // A denormal result is rounded to a multiple of 2^-149.
      const double off = terms * (std::ldexp(bound, -24) + std::ldexp(1, -149));
      constexpr double kMost = std::numeric_limits<float>::max();
      if (std::fabs(sum) + off > kMost && std::isinf(y[r - first])) continue;
      if (a.largest_digit() > 1 && largest > kMost && !std::isfinite(y[r - first])) continue;
      expect(y[r - first], sum, off, "vector, row with groups", v, r);
    }
  }
};

template <class Kernel, class Packing, class X>
void check_grouped(const Kernel& kernel, Index<Packing>& a, Inputs<X>& in) {
  Groups<Packing, X> groups(a, in.count);
  const size_t v = below(std::min(in.count, kFloatKinds));
  std::vector<X> x(in.x.data() + v * in.n, in.x.data() + (v + 1) * in.n);
  groups.pad(a, x.data());
  const auto tables = grouped_tables_of(kernel, a, groups.grouping, x.data());
  for (size_t strip = 0; strip < a.rows; strip += Packing::kStripRows) {
    const size_t first = strip + kRowUnit * below(a.height(strip) / kRowUnit);
    const size_t last = strip + a.height(strip);
    Guarded<float> y(last - first, 77.0f);
    kernel.lookup_grouped(a.wanted(strip, first, last), groups.from(first, v), tables->data(),
                          y.data());
    y.check_guards();
    groups.check(a, x.data(), v, y.data(), first, last);
  }
}

// y = rows [first, last) of the product of one vector and its steps, v, with groups.
template <class Kernel, class Packing, class X>
void multiply_grouped(const Kernel& kernel, Index<Packing>& a, Groups<Packing, X>& groups,
                      const X* x, size_t v, size_t first, size_t last, float* y) {
  const auto tables = grouped_tables_of(kernel, a, groups.grouping, x);
  for (size_t r = first, end; r < last; y += end - r, r = end) {
    const size_t strip = r / Packing::kStripRows * Packing::kStripRows;
    end = std::min(last, strip + a.height(strip));
    kernel.lookup_grouped(a.wanted(strip, r, end), groups.from(r, v), tables->data(), y);
  }
}

// Vectors that a pass takes, of the first `count`, and rows of several strips. as_alone: the kernel
// of one vector whose bits they have, or null.
template <class Kernel, class Vector, class Packing, class X>
void check_grouped_batch(const Kernel& kernel, const Vector* as_alone, Index<Packing>& a,
                         Inputs<X>& in, size_t count) {
  Groups<Packing, X> groups(a, in.count);
  if (rsr::inputs_of_group(groups.grouping, 0, a.k) < kernel.min_group_inputs) return;
  const std::vector<size_t> taken = taken_of(kernel, in, count);
  if (taken.empty()) return;
  count = taken.size();
  const size_t n = a.columns * Packing::kBlocks * a.k;  // of packing n4s1 more than in.n
  Guarded<X> x(count * n);
  for (size_t i = 0; i < count; i++) {
    std::copy_n(in.x.data() + taken[i] * in.n, in.n, x.data() + i * n);
    groups.pad(a, x.data() + i * n);
  }
  Guarded<float> steps(count * groups.count);
  for (size_t i = 0; i < count; i++)
    std::copy_n(groups.steps.data() + taken[i] * groups.count, groups.count,
                steps.data() + i * groups.count);
  const size_t first = below(2) ? 0 : kRowUnit * below(a.rows / kRowUnit);
  const size_t last = first + kRowUnit * (1 + below((a.rows - first) / kRowUnit));
  Guarded<char> shared(kernel.shared_bytes(groups.grouping, a.k, count));
  Guarded<char> per_thread(kernel.per_thread_bytes(groups.grouping, a.k, count));
  for (size_t piece = divide_up(count, kernel.prepare_step); piece-- > 0;)
    kernel.prepare(x.data(), a.patterns_of(x.data()), a.k, a.columns, groups.grouping, count,
                   piece * kernel.prepare_step, std::min(count, (piece + 1) * kernel.prepare_step),
                   shared.data());
  rsr::GroupScales given = groups.from(first, 0);
  if (groups.has_steps) given.steps = steps.data();
  Guarded<float> y(count * (last - first), 77.0f);
  kernel.multiply(a.wanted(first / Packing::kStripRows * Packing::kStripRows, first, last), given,
                  a.patterns_of(x.data()), a.k, shared.data(), count, per_thread.data(), y.data(),
                  last - first);
  shared.check_guards();
  per_thread.check_guards();
  y.check_guards();
  for (size_t i = 0; i < count; i++)
    groups.check(a, x.data() + i * n, taken[i], y.data() + i * (last - first), first, last);
  if (!as_alone) return;
  const size_t i = below(count);
  Guarded<float> alone(last - first);
  multiply_grouped(*as_alone, a, groups, x.data() + i * n, taken[i], first, last, alone.data());
  expect_same_bits(y.data() + i * (last - first), alone.data(), last - first,
                   "vector of a batch with groups, compared with itself alone");
}

// Calls check(kernel, that of one vector with the same bits or null) for both slots with groups.
template <class X, class Get, class Check>
void check_grouped_batches(Harness& harness, const std::string& slot, const Get& get,
                           const Check& check) {
  const auto vector_of = [&](const Table& table) { return &get(table.kernels).vector; };
  harness.each((slot + ".small_grouped_batch").c_str(),
               [&](const rsr::KernelTable& t) -> auto& { return get(t).small_grouped_batch; },
               [&](const auto& kernel, const Table& table) {
                 check(kernel, std::is_same_v<X, int8_t> ? vector_of(table) : nullptr);
               });
  harness.each((slot + ".large_grouped_batch").c_str(),
               [&](const rsr::KernelTable& t) -> auto& { return get(t).large_grouped_batch; },
               [&](const auto& kernel, const Table& table) {
                 check(kernel, decltype(vector_of(table))(nullptr));
               });
}

template <class Packing, class X, class Get>
void check_dtype(Harness& harness, const char* name, Index<Packing>& a, size_t vectors,
                 const std::vector<size_t>& counts, const Get& get) {
  using Y = std::conditional_t<std::is_same_v<X, int8_t>, int32_t, float>;
  Inputs<X> in(a, vectors);
  const std::string slot = name;
  harness.each((slot + ".vector").c_str(),
               [&](const rsr::KernelTable& t) -> auto& { return get(t).vector; },
               [&](const auto& kernel, const Table&) { check_vector(kernel, a, in); });
  if constexpr (std::is_same_v<Packing, W16>)
    harness.each((slot + ".vector (grouped)").c_str(),
                 [&](const rsr::KernelTable& t) -> auto& { return get(t).vector; },
                 [&](const auto& kernel, const Table&) { check_grouped(kernel, a, in); });
  check_grouped_batches<X>(harness, slot, get, [&](const auto& kernel, const auto* as_alone) {
    if constexpr (std::is_same_v<Packing, W16>)
      for (size_t count : counts) check_grouped_batch(kernel, as_alone, a, in, count);
  });
  const auto check = [&](const char* which, [[maybe_unused]] bool is_as_alone,
                         const auto& batch_of) {
    harness.each((slot + which).c_str(),
                 [&](const rsr::KernelTable& t) -> auto& { return batch_of(get(t)); },
                 [&](const auto& kernel, const Table& table) {
                   for (size_t count : counts) check_batch(kernel, a, in, count);
                   if constexpr (std::is_same_v<Packing, W16> && std::is_same_v<X, float>) {
                     // The same additions in the same order as for one vector, unless that is
                     // fixed point, which has a header.
                     if (!is_as_alone || get(table.kernels).vector.header_bytes) return;
                     const std::vector<size_t> taken = taken_of(kernel, in, in.count);
                     const size_t i = below(taken.size());
                     Guarded<Y> batch(taken.size() * a.rows), alone(a.rows);
                     multiply_batch(kernel, a, in, taken, 0, a.rows, batch);
                     multiply_vector(get(table.kernels).vector, a, in.x.data() + taken[i] * in.n,
                                     alone.data());
                     expect_same_bits(batch.data() + i * a.rows, alone.data(), a.rows,
                                      "vector of a batch, compared with itself alone");
                   }
                 });
  };
  check(".small_batch", true, [](const auto& kernels) -> auto& { return kernels.small_batch; });
  check(".medium_batch", true, [](const auto& kernels) -> auto& { return kernels.medium_batch; });
  check(".large_batch", false, [](const auto& kernels) -> auto& { return kernels.large_batch; });
}

// Packing n4s1 with groups of columns: units end with every group. Unscaled, int8 products ignore
// the groups.
template <class X, class Get>
void check_short_units(Harness& harness, const char* name, Index<N4S1>& a, const Get& get) {
  Inputs<X> in(a, 67);
  harness.each((std::string(name) + ".vector (grouped)").c_str(),
               [&](const rsr::KernelTable& t) -> auto& { return get(t).vector; },
               [&](const auto& kernel, const Table&) {
                 for (int i = 0; i < 3; i++) check_grouped(kernel, a, in);
                 if constexpr (std::is_same_v<X, int8_t>) check_vector(kernel, a, in);
               });
  check_grouped_batches<X>(harness, name, get, [&](const auto& kernel, const auto* as_alone) {
    for (size_t count : {size_t{1}, 2 + below(15), 17 + below(16), 33 + below(35)})
      check_grouped_batch(kernel, as_alone, a, in, count);
  });
}

void check_groups_of_units(Harness& harness) {
  const size_t widen = N4S1::kBlocks * rsr::columns_per_widen<N4S1>(N4S1::kK, 1);
  for (int i = 0; i < 80; i++) {
    // Around units and runs between widenings, of both types; some with a narrower last group.
    const size_t per_group = pick<size_t>(
        {1,  2,  3,  4,  5,  6,  7,   8,         9,     11,        22,        43,           63,
         64, 65, 71, 72, 73, 86, 129, widen - 1, widen, widen + 1, widen + 8, 2 * widen + 3});
    const size_t blocks = 1 + below(4 * per_group);
    Index<N4S1> a(kRowUnit * pick<size_t>({1, 2, 3, 4}), {std::min(per_group, blocks), blocks},
                  pick({Fill::random, Fill::bytes, Fill::lowest, Fill::highest}));
    check_short_units<int8_t>(harness, "n4s1_i8", a,
                              [](const rsr::KernelTable& t) -> auto& { return t.n4s1_i8; });
    check_short_units<float>(harness, "n4s1_f32", a,
                             [](const rsr::KernelTable& t) -> auto& { return t.n4s1_f32; });
  }
}

template <class Packing>
void check_index(Harness& harness, size_t rows, size_t columns, int k,
                 const std::vector<int>& digits, Fill fill, size_t vectors,
                 const std::vector<size_t>& counts) {
  Index<Packing> a(rows, columns, k, digits, fill);
  if constexpr (std::is_same_v<Packing, W16>) {
    check_dtype<Packing, int8_t>(harness, "w16_i8", a, vectors, counts,
                                 [](const rsr::KernelTable& t) -> auto& { return t.w16_i8; });
    check_dtype<Packing, float>(harness, "w16_f32", a, vectors, counts,
                                [](const rsr::KernelTable& t) -> auto& { return t.w16_f32; });
  } else {
    check_dtype<Packing, int8_t>(harness, "n4s1_i8", a, vectors, counts,
                                 [](const rsr::KernelTable& t) -> auto& { return t.n4s1_i8; });
    check_dtype<Packing, float>(harness, "n4s1_f32", a, vectors, counts,
                                [](const rsr::KernelTable& t) -> auto& { return t.n4s1_f32; });
  }
}

template <class Packing>
void check_shapes(Harness& harness, int k, const std::vector<int>& digits, int shapes) {
  const int largest = std::max(std::abs(digits.front()), digits.back());
  const size_t widen = rsr::columns_per_widen<Packing>(k, largest);
  for (int i = 0; i < shapes; i++) {
    // Around words, runs between widenings, panels and blocks of inputs; around strips of rows.
    const size_t columns = pick<size_t>(
        {1, 2, 3, 4, 5, 9, widen - 1, widen, widen + 1, 2 * widen + 1, 63, 64, 65, 1 + below(70)});
    const size_t rows = kRowUnit * pick<size_t>({1, 2, 3, 4, 5, 6, 9});
    const Fill fill = pick({Fill::random, Fill::bytes, Fill::lowest, Fill::highest});
    check_index<Packing>(
        harness, rows, std::max<size_t>(columns, 1), k, digits, fill, 33,
        {pick<size_t>({1, 2, 3, 4, 5, 7, 8, 9}), pick<size_t>({11, 12, 13, 15, 16, 17}),
         pick<size_t>({24, 25, 31, 32, 33})});
  }
}

constexpr size_t kTimedGroup = 43;  // blocks

// An index like another, for groups of kTimedGroup blocks.
template <class Packing>
Index<Packing> in_groups(const Index<Packing>& a, const std::vector<int>& digits) {
  if constexpr (std::is_same_v<Packing, N4S1>)
    return Index<Packing>(a.rows, {kTimedGroup, a.blocks}, Fill::random);
  else
    return Index<Packing>(a.rows, a.columns, a.k, digits, Fill::random);
}

// Vectors one at a time, and in batches.
template <class X, class Packing, class Get>
void time_groups(Harness& harness, const std::string& slot, Index<Packing> a, const Get& get) {
  const rsr::Grouping grouping{kTimedGroup, a.blocks, 128};
  const size_t most = 64;
  std::vector<X> x(most * a.columns * Packing::kBlocks * a.k);
  for (X& value : x) value = static_cast<X>(normal());
  std::vector<float> scales(a.rows * a.blocks, 1.0f), y(most * a.rows);
  const double work = static_cast<double>(a.rows * a.inputs);
  const std::string vector = slot + ".vector (grouped)";
  harness.each(
      vector.c_str(), [&](const rsr::KernelTable& t) -> auto& { return get(t).vector; },
      [&](const auto& kernel, const Table& table) {
        const auto tables = grouped_tables_of(kernel, a, grouping, x.data());
        harness.time(vector.c_str(), table, work, "MAC", [&] {
          for (size_t r = 0; r < a.rows; r += Packing::kStripRows)
            kernel.lookup_grouped(a.wanted(r, r, r + a.height(r)),
                                  {scales.data() + r, a.rows, false, grouping}, tables->data(),
                                  y.data() + r);
        });
      });
  const auto time_batch = [&](const char* which, const auto& batch_of) {
    const std::string name = slot + which;
    harness.each(
        name.c_str(), [&](const rsr::KernelTable& t) -> auto& { return batch_of(get(t)); },
        [&](const auto& kernel, const Table& table) {
          const size_t count = std::min(most, kernel.max_vectors);
          const auto* patterns = a.patterns_of(x.data());
          Guarded<char> shared(kernel.shared_bytes(grouping, a.k, count));
          Guarded<char> per_thread(kernel.per_thread_bytes(grouping, a.k, count));
          harness.time(name.c_str(), table, work * static_cast<double>(count), "MAC", [&] {
            kernel.prepare(x.data(), patterns, a.k, a.columns, grouping, count, 0, count,
                           shared.data());
            kernel.multiply(a.wanted(0, 0, a.rows), {scales.data(), a.rows, false, grouping},
                            patterns, a.k, shared.data(), count, per_thread.data(), y.data(),
                            a.rows);
          });
        });
  };
  time_batch(".small_grouped_batch",
             [](const auto& kernels) -> auto& { return kernels.small_grouped_batch; });
  time_batch(".large_grouped_batch",
             [](const auto& kernels) -> auto& { return kernels.large_grouped_batch; });
}

template <class Packing, class X, class Get>
void time_dtype(Harness& harness, const std::string& slot, Index<Packing>& a,
                const std::vector<int>& digits, const Get& get) {
  using Y = std::conditional_t<std::is_same_v<X, int8_t>, int32_t, float>;
  Inputs<X> in(a, 64);
  for (size_t i = 0; i < in.x.size(); i++) in.x[i] = static_cast<X>(normal());
  const double work = static_cast<double>(a.rows * a.inputs);
  const std::string vector = slot + ".vector";
  harness.each(
      vector.c_str(), [&](const rsr::KernelTable& t) -> auto& { return get(t).vector; },
      [&](const auto& kernel, const Table& table) {
        const auto tables = tables_of(kernel, a, in.x.data());
        std::vector<Y> y(a.rows);
        harness.time(vector.c_str(), table, work, "MAC", [&] {
          for (size_t r = 0; r < a.rows; r += Packing::kStripRows)
            kernel.lookup(a.wanted(r, r, r + a.height(r)), tables->data(), y.data() + r);
        });
      });
  time_groups<X>(harness, slot, in_groups(a, digits), get);
  const auto time_batch = [&](const char* which, const auto& batch_of) {
    const std::string name = slot + which;
    harness.each(
        name.c_str(), [&](const rsr::KernelTable& t) -> auto& { return batch_of(get(t)); },
        [&](const auto& kernel, const Table& table) {
          const size_t count = std::min<size_t>(in.count, kernel.max_vectors);
          const X* x = in.x.data();
          Guarded<char> shared(kernel.shared_bytes(a.columns, a.k, count));
          Guarded<char> per_thread(kernel.per_thread_bytes(a.columns, a.k, count));
          Guarded<Y> y(count * a.rows);
          harness.time(name.c_str(), table, work * static_cast<double>(count), "MAC", [&] {
            kernel.prepare(x, a.patterns_of(x), a.k, a.columns, count, 0, count, shared.data());
            kernel.multiply(a.wanted(0, 0, a.rows), a.patterns_of(x), a.k, shared.data(), count,
                            per_thread.data(), y.data(), a.rows);
          });
        });
  };
  time_batch(".small_batch", [](const auto& kernels) -> auto& { return kernels.small_batch; });
  time_batch(".medium_batch", [](const auto& kernels) -> auto& { return kernels.medium_batch; });
  time_batch(".large_batch", [](const auto& kernels) -> auto& { return kernels.large_batch; });
}

}  // namespace

void check_ranked(Harness& harness) {
  const std::vector<int> ternary = {-1, 0, 1};
  for (const std::vector<int>& digits : {ternary, {-1, 1}, {0, 1}})
    for (int k = 1; k <= rsr::kMaxK; k++) check_shapes<W16>(harness, k, digits, 8);
  for (const std::vector<int>& digits :
       {std::vector<int>{-1, 0, 1, 2}, {-2, -1, 1, 2}, {-2, -1, 0, 1, 2}})
    for (int k = 1; k <= 2; k++) check_shapes<W16>(harness, k, digits, 12);
  check_shapes<W16>(harness, 3, ternary, 30);
  check_shapes<N4S1>(harness, N4S1::kK, ternary, 60);
  check_groups_of_units(harness);
  // More rows than a kernel takes at once, more vectors than a pass takes, every number of vectors.
  std::vector<size_t> counts;
  for (size_t count = 1; count <= 66; count++) counts.push_back(count);
  check_index<W16>(harness, 64, 30, 3, ternary, Fill::random, 66, counts);
  check_index<N4S1>(harness, 64, 5, 3, ternary, Fill::random, 66, counts);
  check_index<W16>(harness, 32, 9, 3, ternary, Fill::random, 256, {255, 256});
  // Inputs that kernels do not read anew for each panel.
  check_index<W16>(harness, 96, 128, 3, ternary, Fill::random, 250, {250});
  check_index<W16>(harness, 2112, 3, 3, ternary, Fill::random, 17, {2, 9, 17});
  check_index<N4S1>(harness, 2112, 2, 3, ternary, Fill::random, 17, {2, 9, 17});
  if (!harness.is_bench) return;
  Index<W16> words(1024, 256, 3, ternary, Fill::random);
  Index<N4S1> units(1024, 96, 3, ternary, Fill::random);
  time_dtype<W16, int8_t>(harness, "w16_i8", words, ternary,
                          [](const rsr::KernelTable& t) -> auto& { return t.w16_i8; });
  time_dtype<W16, float>(harness, "w16_f32", words, ternary,
                         [](const rsr::KernelTable& t) -> auto& { return t.w16_f32; });
  time_dtype<N4S1, int8_t>(harness, "n4s1_i8", units, ternary,
                           [](const rsr::KernelTable& t) -> auto& { return t.n4s1_i8; });
  time_dtype<N4S1, float>(harness, "n4s1_f32", units, ternary,
                          [](const rsr::KernelTable& t) -> auto& { return t.n4s1_f32; });
}

}  // namespace harness
