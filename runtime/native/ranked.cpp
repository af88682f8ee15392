#include "ranked.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

#include "buffer.h"
#include "dispatch.h"
#include "parallel.h"
#include "step_groups.h"
#include "transpose.h"

namespace rsr {
namespace {

constexpr size_t kTaskRows = 64;             // rows handed to a thread at once, at least
constexpr size_t kScratchBytes = 256 << 10;  // sums of a batch at once, where y cannot hold them
constexpr size_t kVectorsPrepared = 256;     // inputs made at once: as many as any kernel takes
constexpr size_t kVectorsTransposed = 16;    // at once, if multiplied one at a time: a line of y
constexpr size_t kTransposedInputs = 64;     // handed to a thread at once
static_assert(kTaskRows % kRowUnit == 0);

struct PackingShape {
  size_t strip_rows, column_blocks, cell_bytes;
  size_t (*columns_per_widen)(int k, int largest_digit);
};

template <class Packing>
constexpr PackingShape kShape = {Packing::kStripRows, Packing::kBlocks, Packing::kCellBytes,
                                 columns_per_widen<Packing>};

const PackingShape& shape_of(Packing packing) {
  return packing == Packing::w16 ? kShape<W16> : kShape<N4S1>;
}

// Scratch of a thread. `input`, `rows`, `factors` and `shared` serve products that the thread
// starts, the others its share of any product. The caller's is trimmed when its product ends, a
// worker's when it next asks for memory.
struct Scratch {
  Buffer input, rows, factors, shared, outputs, scales, per_thread;
  uint64_t tables_of = 0;  // the product whose tables `per_thread` holds

  void trim() {
    for (Buffer* b : {&input, &rows, &factors, &shared, &outputs, &scales, &per_thread}) b->trim();
    tables_of = 0;
  }
};

thread_local Scratch scratch;
std::atomic<uint64_t> products_begun{0};

// Turns the sums of rows [first, last) of one vector into outputs.

void apply_scale(const RankedIndex&, size_t first, size_t last, const int32_t* sums, int32_t* y,
                 const float*) {
  if (sums != y) std::memcpy(y, sums, (last - first) * sizeof(int32_t));
}

// Rows have a scale each, or runs of rows share one: neither a division nor a branch per row.
template <class Sum, class Scaled>
void scale_rows(const RankedIndex& a, size_t first, size_t last, const Sum* sums, float* y,
                const Scaled& scaled) {
  if (a.scale_rows == 1) {
    const float* scale = a.scale + first;
    for (size_t i = 0; i < last - first; i++) y[i] = scaled(static_cast<float>(sums[i]), scale[i]);
    return;
  }
  for (size_t r = first; r < last;) {
    const size_t s = r / a.scale_rows, stop = std::min(last, (s + 1) * a.scale_rows);
    const float scale = a.scale[s];
    for (; r < stop; r++) y[r - first] = scaled(static_cast<float>(sums[r - first]), scale);
  }
}

void apply_scale(const RankedIndex& a, size_t first, size_t last, const float* sums, float* y,
                 const float*) {
  scale_rows(a, first, last, sums, y, [](float sum, float scale) { return sum * scale; });
}

void apply_scale(const RankedIndex& a, size_t first, size_t last, const int32_t* sums, float* y,
                 const float* divisor) {
  scale_rows(a, first, last, sums, y,
             [d = *divisor](float sum, float scale) { return sum * scale / d; });
}

template <class X, class Pattern, class Y, class Out>
class Multiplication {
 public:
  using Kernels = RankedKernels<X, Pattern, Y>;
  using Batch = typename Kernels::Batch;
  using GroupedBatch = typename Kernels::GroupedBatch;

  Multiplication(const Kernels& kernels, const RankedProduct<Out>* products, size_t size)
      : kernels_(kernels), products_(products), size_(size), a_(*products[0].index) {
    const PackingShape& shape = shape_of(a_.packing);
    blocks_ = a_.index_columns() * shape.column_blocks;
    inputs_ = blocks_ * a_.k;
    columns_per_widen_ = shape.columns_per_widen(a_.k, a_.largest_digit);
    std::copy(a_.patterns, a_.patterns + a_.k * kPatterns, patterns_);
    for (size_t p = 0; p < size; p++) {
      tasks_ += tasks(*products[p].index);
      bytes_ += products[p].index->bytes();
    }
  }

  // divisors: one per vector; steps: one per vector and group; null if the output has none.
  void run(const X* x, size_t count, Orders orders, const float* divisors = nullptr,
           const float* steps = nullptr) {
    divisors_ = divisors;
    steps_ = steps;
    transposed_ = orders.y == Order::columns ? count : 0;
    if (orders.x == Order::rows)
      multiply(count,
               [&](size_t first, size_t pass) { return padded(x + first * a_.columns, pass); });
    else
      multiply(count,
               [&](size_t first, size_t pass) { return padded_columns(x + first, count, pass); });
  }

  // Each product has its own vector: number j of x, of divisors and of steps.
  void run_each(const X* x, const float* divisors = nullptr, const float* steps = nullptr) {
    divisors_ = divisors;
    steps_ = steps;
    struct Trim {
      ~Trim() { scratch.trim(); }
    } at_the_end;
    x = padded(x, size_);
    const uint64_t first_product = products_begun.fetch_add(size_) + 1;
    for_each_part(products_, bytes_, [&](const RankedProduct<Out>& p, size_t first, size_t last) {
      const size_t j = &p - products_;
      multiply_rows(p, x + j * inputs_, first_product + j, j, p.y, first, last);
    });
  }

  // x is quantized first, by groups of `group_columns` columns unless it is 0. X: int8_t.
  void run_quantizing(const float* x, size_t count, size_t group_columns) {
    const size_t each = group_columns ? divide_up(a_.columns, group_columns) : 1;
    float* factors = static_cast<float*>(scratch.factors.get(count * each * sizeof(float)));
    (group_columns ? steps_ : divisors_) = factors;
    multiply(count, [&](size_t first, size_t pass) {
      return quantized(x + first * a_.columns, pass, group_columns, each, factors + first * each);
    });
  }

 private:
  // inputs(first, count): those vectors, as padded() returns them.
  template <class Inputs>
  void multiply(size_t count, const Inputs& inputs) const {
    struct Trim {
      ~Trim() { scratch.trim(); }
    } at_the_end;
    for (size_t first = 0; first < count; first += kVectorsPrepared) {
      const size_t here = std::min(kVectorsPrepared, count - first);
      const X* x = inputs(first, here);
      for (size_t i = 0; i < here;) i += multiply_some(x + i * inputs_, here - i, first + i);
    }
  }

  static size_t tasks(const RankedIndex& a) {
    return (a.padded_rows() + kTaskRows - 1) / kTaskRows;
  }

  // Calls work(begin, end) for vectors, or other parts of x, on all threads.
  template <class Work>
  void for_inputs(size_t parts, size_t count, const Work& work) const {
    parallel_for(parts, count * inputs_ * sizeof(X), std::cref(work));
  }

  X* room_for_inputs(size_t count) const {
    return static_cast<X*>(scratch.input.get(std::max<size_t>(1, count * inputs_) * sizeof(X)));
  }

  // Whether the inputs of a vector are in the order of the kernels, which only lack the last ones.
  bool is_in_order() const {
    return a_.stride == 1 && (a_.groups.columns == 0 || a_.columns == inputs_);
  }

  // The vectors as kernels read them, one after the other: every column block has k adjacent
  // inputs, and zeros complete each vector and each group.
  const X* padded(const X* x, size_t count) const {
    if (a_.stride == 1 && a_.columns == inputs_) return x;
    X* const copy = room_for_inputs(count);
    for_inputs(count, count, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; i++) pad(x + i * a_.columns, copy + i * inputs_);
    });
    return copy;
  }

  void pad(const X* x, X* to) const {
    X* const end = to + inputs_;
    if (a_.stride > 1) {  // `stride` blocks cover a run of columns, and a group is whole runs
      const size_t k = a_.k, run = k * a_.stride;
      for (size_t c = 0; c < a_.columns; c += run, x += run)
        for (size_t j = 0; j < a_.stride; j++)
          for (size_t p = 0; p < k; p++) *to++ = x[p * a_.stride + j];
    } else {
      const size_t group = a_.groups.columns ? a_.groups.columns : std::max<size_t>(1, a_.columns);
      const size_t step = a_.group_blocks() * a_.k;
      for (size_t c = 0; c < a_.columns; c += group) {
        const size_t here = std::min(group, a_.columns - c);
        X* const next = std::min(to + step, end);
        std::fill(std::copy_n(x + c, here, to), next, X(0));
        to = next;
      }
    }
    std::fill(to, end, X(0));
  }

  // The same of x (columns, x_stride).
  const X* padded_columns(const X* x, size_t x_stride, size_t count) const {
    const bool in_order = is_in_order();
    const size_t stride = in_order ? inputs_ : a_.columns;
    X* const rows = in_order ? room_for_inputs(count)
                             : static_cast<X*>(scratch.rows.get(count * stride * sizeof(X)));
    const size_t parts = (stride + kTransposedInputs - 1) / kTransposedInputs;
    for_inputs(parts, count, [&](size_t begin, size_t end) {
      const size_t first = begin * kTransposedInputs;
      const size_t last = std::min(end * kTransposedInputs, stride);
      const size_t real = std::min(last, a_.columns);
      if (first < real)
        transpose(x + first * x_stride, x_stride, real - first, count, rows + first, stride);
      for (size_t i = 0; i < count; i++)
        std::fill(rows + i * stride + std::max(first, real), rows + i * stride + last, X(0));
    });
    return in_order ? rows : padded(rows, count);
  }

  // The same of x (count, columns), quantized; the factors, `each` of a vector, are written: its
  // divisor, or the steps of its groups.
  const X* quantized(const float* x, size_t count, size_t group_columns, size_t each,
                     float* factors) const {
    X* const copy = room_for_inputs(count);
    const auto kernel = rsr::kernels().decoder.normalize;  // with nothing to add it only reads x
    const size_t columns = a_.columns;
    const bool in_order = is_in_order();
    for_inputs(count, sizeof(float) * count, [&](size_t begin, size_t end) {
      scratch.tables_of = 0;
      for (size_t i = begin; i < end; i++) {
        X* const to = copy + i * inputs_;
        X* const q = in_order ? to : static_cast<X*>(scratch.per_thread.get(columns));
        kernel(const_cast<float*>(x) + i * columns, nullptr,
               {columns, nullptr, 0.0f, nullptr, q, factors + i * each, group_columns});
        if (in_order)
          std::fill(to + columns, to + inputs_, X(0));
        else
          pad(q, to);
      }
    });
    return copy;
  }

  // The kernel for the next vectors, and how many it takes; without either batch, one at a time.
  struct Choice {
    const Batch* batch;
    const GroupedBatch* grouped;
    size_t pass;
  };

  Choice choice(const X* x, size_t left) const {
    if (blocks_ != 0 && is_grouped()) {
      for (const GroupedBatch* batch :
           {&kernels_.large_grouped_batch, &kernels_.small_grouped_batch}) {
        if (a_.groups.columns < batch->min_group_inputs) continue;
        if (const size_t pass = pass_of(*batch, x, left)) return {nullptr, batch, pass};
      }
    } else if (blocks_ != 0 && !has_short_units(a_)) {
      for (const Batch* batch :
           {&kernels_.large_batch, &kernels_.medium_batch, &kernels_.small_batch})
        if (const size_t pass = pass_of(*batch, x, left)) return {batch, nullptr, pass};
    }
    return {nullptr, nullptr, 1};
  }

  // Multiplies by the next vectors, and returns their number.
  size_t multiply_some(const X* x, size_t left, size_t done) const {
    Choice next = choice(x, left);
    if (next.grouped)
      multiply_grouped_batch(*next.grouped, x, next.pass, done);
    else if (next.batch)
      multiply_batch(*next.batch, x, next.pass, done);
    else if (!transposed_)
      multiply_vector(products_, x, done);
    else {
      const auto is_alone = [&](const Choice& c) { return !c.batch && !c.grouped; };
      while (next.pass < std::min(left, kVectorsTransposed) &&
             is_alone(choice(x + next.pass * inputs_, left - next.pass)))
        next.pass++;
      multiply_vectors_transposed(x, next.pass, done);
    }
    return next.pass;
  }

  // How many of the next vectors a batch kernel takes in one pass; 0 if another kernel is faster.
  template <class Kernel>
  size_t pass_of(const Kernel& batch, const X* x, size_t left) const {
    if (batch.min_vectors == 0 || a_.k > batch.max_k) return 0;
    size_t pass = std::min(batch.max_vectors, left);
    if (batch.takes)
      for (size_t i = 0; i < pass; i++)
        if (!batch.takes(x + i * inputs_, inputs_)) pass = i;
    if (pass > batch.set) pass -= pass % batch.set;
    return pass < batch.min_vectors ? 0 : pass;
  }

  // Calls part(product, first row, last row) on all threads until all rows of all products are
  // done.
  template <class Part>
  void for_each_part(const RankedProduct<Out>* products, size_t cost, const Part& part) const {
    const auto body = [&](size_t begin, size_t end) {
      size_t before = 0;  // tasks of the products before this one
      for (size_t p = 0; p < size_ && before < end; p++) {
        const RankedIndex& a = *products[p].index;
        const size_t here = tasks(a);
        if (before + here > begin) {
          const size_t first = std::max(begin, before) - before;
          const size_t last = std::min(end - before, here);
          part(products[p], first * kTaskRows, std::min(last * kTaskRows, a.padded_rows()));
        }
        before += here;
      }
    };
    parallel_for(tasks_, cost, std::cref(body));
  }

  RankedRows rows_from_strip(const RankedIndex& a, size_t strip, size_t first, size_t last) const {
    const size_t start = strip * shape_of(a.packing).strip_rows;
    return {a.data + start * a.row_bytes(),
            first - start,
            last - start,
            a.padded_rows() - start,
            a.index_columns(),
            columns_per_widen_,
            has_short_units(a) ? grouping() : Grouping{0, 0},
            a.has_few_patterns};
  }

  static bool has_short_units(const RankedIndex& a) {
    return a.packing == Packing::n4s1 && a.groups.columns;
  }

  const float* divisor(size_t i) const { return divisors_ ? divisors_ + i : nullptr; }

  // y itself if it has the type of the sums and holds all rows, padding included.
  static Y* place_for_sums([[maybe_unused]] Out* y, [[maybe_unused]] bool fits, Y* scratch) {
    if constexpr (std::is_same_v<Y, Out>) {
      if (fits) return y;
    }
    return scratch;
  }

  // Whether scales of groups apply: unscaled int8 products ignore them.
  bool is_grouped() const { return a_.groups.columns && std::is_same_v<Out, float>; }

  Grouping grouping() const { return {a_.group_blocks(), a_.blocks(), a_.groups.columns}; }

  // The scales of rows [first, last), for vectors from `done` on. Padding rows have none, but
  // kernels read one per row: rows of the last unit come from a copy.
  GroupScales scales_of(const RankedIndex& a, size_t first, size_t last, size_t done) const {
    const size_t groups = group_count(grouping()), size = a.groups.is_half ? 2 : 4;
    const char* data = static_cast<const char*>(a.groups.data) + first * size;
    const float* steps = steps_ ? steps_ + done * groups : nullptr;
    if (last <= a.rows) return {data, a.rows, a.groups.is_half, grouping(), steps};
    const size_t row_bytes = (last - first) * size;
    char* copy = static_cast<char*>(scratch.scales.get(groups * row_bytes));
    std::memset(copy, 0, groups * row_bytes);
    for (size_t g = 0; g < groups; g++)
      std::memcpy(copy + g * row_bytes, data + g * a.rows * size, (a.rows - first) * size);
    return {copy, last - first, a.groups.is_half, grouping(), steps};
  }

  void lookup_grouped(const RankedIndex& a, const RankedRows& rows, size_t first,
                      const void* tables, [[maybe_unused]] Out* y, size_t done) const {
    if constexpr (std::is_same_v<Out, float>) {
      const size_t last = first + rows.last - rows.first;
      alignas(kLineBytes) float sums[kMaxStripRows];
      float* to = last <= a.rows ? y : sums;
      kernels_.vector.lookup_grouped(rows, scales_of(a, first, last, done), tables, to);
      divide(to, std::min(last, a.rows) - first, divisor(done), y);
    }
  }

  // y = sums, divided if there is a divisor.
  static void divide(const float* sums, size_t n, const float* divisor, float* y) {
    if (sums != y) std::copy_n(sums, n, y);
    if (divisor)
      for (size_t i = 0; i < n; i++) y[i] /= *divisor;
  }

  // Every thread builds the tables for itself: they are then in its cache, and no thread waits.
  const void* per_thread_tables(const X* x, uint64_t product) const {
    const auto& kernel = kernels_.vector;
    void* tables = scratch.per_thread.get(kernel.header_bytes + blocks_ * kernel.table_bytes);
    if (scratch.tables_of != product) {
      is_grouped() && kernel.build_grouped_tables
          ? kernel.build_grouped_tables(x, patterns_, a_.k, grouping(), tables)
          : kernel.build_tables(x, patterns_, a_.k, blocks_, tables);
      scratch.tables_of = product;
    }
    return tables;
  }

  void multiply_vector(const RankedProduct<Out>* products, const X* x, size_t done) const {
    const uint64_t product = ++products_begun;
    for_each_part(products, bytes_, [&](const RankedProduct<Out>& p, size_t first, size_t last) {
      multiply_rows(p, x, product, done, p.y + done * p.index->rows, first, last);
    });
  }

  // Rows [first, last) of a product with vector number `i`, x; all: (rows).
  void multiply_rows(const RankedProduct<Out>& p, const X* x, uint64_t product, size_t i, Out* all,
                     size_t first, size_t last) const {
    const size_t strip_rows = shape_of(a_.packing).strip_rows;
    const RankedIndex& a = *p.index;
    const void* tables = per_thread_tables(x, product);
    for (size_t r = first, stop; r < last; r = stop) {
      const size_t strip = r / strip_rows;
      stop = std::min(last, (strip + 1) * strip_rows);
      alignas(kLineBytes) Y sums[kMaxStripRows];
      Out* y = all + r;
      if (is_grouped()) {
        lookup_grouped(a, rows_from_strip(a, strip, r, stop), r, tables, y, i);
        continue;
      }
      Y* to = place_for_sums(y, stop <= a.rows, sums);
      kernels_.vector.lookup(rows_from_strip(a, strip, r, stop), tables, to);
      apply_scale(a, r, std::min(stop, a.rows), to, y, divisor(i));
    }
  }

  // One at a time, into rows that are transposed when a line of y is complete.
  void multiply_vectors_transposed(const X* x, size_t count, size_t done) const {
    std::vector<RankedProduct<Out>> rows(products_, products_ + size_);
    size_t all = 0;
    for (size_t p = 0; p < size_; p++) all += rows[p].index->rows;
    Out* to = static_cast<Out*>(scratch.rows.get(count * all * sizeof(Out)));
    for (auto& product : rows) {
      product.y = to;
      to += count * product.index->rows;
    }
    for (size_t i = 0; i < count; i++) multiply_vector(rows.data(), x + i * inputs_, i);
    for_each_part(products_, count * all * sizeof(Out),
                  [&](const RankedProduct<Out>& p, size_t first, size_t last) {
                    const size_t height = p.index->rows;
                    const Out* from = rows[&p - products_].y + first;
                    last = std::min(last, height);
                    transpose(from, height, count, last - first, p.y + first * transposed_ + done,
                              transposed_);
                  });
  }

  void multiply_batch(const Batch& batch, const X* x, size_t count, size_t done) const {
    const size_t columns = a_.index_columns(), step = batch.prepare_step;
    const size_t bytes = batch.shared_bytes(columns, a_.k, count);
    void* shared = scratch.shared.get(bytes);
    parallel_for((count + step - 1) / step, bytes, [&](size_t begin, size_t end) {
      batch.prepare(x, patterns_, a_.k, columns, count, begin * step, std::min(end * step, count),
                    shared);
    });
    for_each_part(products_, bytes_ * count, [&](const auto& p, size_t first, size_t last) {
      const RankedIndex& a = *p.index;
      void* per_thread = scratch.per_thread.get(batch.per_thread_bytes(columns, a_.k, count));
      scratch.tables_of = 0;
      const bool in_place = std::is_same_v<Y, Out> && last <= a.rows && !transposed_;
      const size_t rows = in_place ? last - first : rows_through_scratch(count);
      for (size_t top = first; top < last; top += rows) {
        const size_t bottom = std::min(last, top + rows), real = std::min(bottom, a.rows);
        const size_t stride = in_place ? a.rows : bottom - top + kLineBytes / sizeof(Y);
        Out* y = p.y + (transposed_ ? top * transposed_ + done : done * a.rows + top);
        Y* to = place_for_sums(
            y, in_place,
            in_place ? nullptr : static_cast<Y*>(scratch.outputs.get(count * stride * sizeof(Y))));
        batch.multiply(rows_from_strip(a, top / shape_of(a.packing).strip_rows, top, bottom),
                       patterns_, a_.k, shared, count, per_thread, to, stride);
        if constexpr (std::is_same_v<Y, Out>) {
          if (transposed_) {
            for (size_t i = 0; i < count; i++)
              apply_scale(a, top, real, to + i * stride, to + i * stride, nullptr);
            transpose(to, stride, count, real - top, y, transposed_);
            continue;
          }
        }
        for (size_t i = 0; i < count; i++)
          apply_scale(a, top, real, to + i * stride, y + i * a.rows, divisor(done + i));
      }
    });
  }

  // Rows of a batch at once where y cannot hold its sums: few enough that they stay in L2.
  static size_t rows_through_scratch(size_t count) {
    const size_t fitting = kScratchBytes / (count * sizeof(Y)) / kTaskRows * kTaskRows;
    return std::max(kTaskRows, fitting);
  }

  void multiply_grouped_batch([[maybe_unused]] const GroupedBatch& batch, const X* x, size_t count,
                              size_t done) const {
    if constexpr (std::is_same_v<Out, float>) {
      const size_t columns = a_.index_columns(), step = batch.prepare_step;
      const size_t bytes = batch.shared_bytes(grouping(), a_.k, count);
      void* shared = scratch.shared.get(bytes);
      parallel_for((count + step - 1) / step, bytes, [&](size_t begin, size_t end) {
        batch.prepare(x, patterns_, a_.k, columns, grouping(), count, begin * step,
                      std::min(end * step, count), shared);
      });
      for_each_part(products_, bytes_ * count, [&](const auto& p, size_t first, size_t last) {
        const RankedIndex& a = *p.index;
        void* per_thread = scratch.per_thread.get(batch.per_thread_bytes(grouping(), a_.k, count));
        scratch.tables_of = 0;
        const auto multiply = [&](size_t top, size_t bottom, float* to, size_t stride) {
          batch.multiply(rows_from_strip(a, top / shape_of(a.packing).strip_rows, top, bottom),
                         scales_of(a, top, bottom, done), patterns_, a_.k, shared, count,
                         per_thread, to, stride);
          const size_t real = std::min(bottom, a.rows) - top;
          if (transposed_)
            return transpose(to, stride, count, real, p.y + top * transposed_ + done, transposed_);
          for (size_t i = 0; i < count; i++)
            divide(to + i * stride, real, divisor(done + i), p.y + (done + i) * a.rows + top);
        };
        if (transposed_) {
          const size_t rows = rows_through_scratch(count), stride = rows + kLineBytes / sizeof(Out);
          void* to = scratch.outputs.get(count * stride * sizeof(Out));
          for (size_t top = first; top < last; top += rows)
            multiply(top, std::min(last, top + rows), static_cast<Out*>(to), stride);
          return;
        }
        const size_t whole = std::min(last, a.rows / kRowUnit * kRowUnit);
        if (first < whole) multiply(first, whole, p.y + done * a.rows + first, a.rows);
        if (whole < last) {  // one unit, some of whose rows are padding
          const size_t top = std::max(first, whole), stride = last - top;
          multiply(top, last,
                   static_cast<float*>(scratch.outputs.get(count * stride * sizeof(float))),
                   stride);
        }
      });
    }
  }

  const Kernels& kernels_;
  const float* divisors_ = nullptr;
  size_t transposed_ = 0;  // vectors of each y (rows, vectors); 0 where y is (vectors, rows)
  const float* steps_ = nullptr;
  const RankedProduct<Out>* products_;
  const size_t size_;
  const RankedIndex& a_;  // the first index: its input is that of all
  size_t blocks_, inputs_, columns_per_widen_, tasks_ = 0, bytes_ = 0;
  alignas(kLineBytes) Pattern patterns_[kMaxK * kPatterns];
};

const auto& kernels_i8(const RankedIndex& a) {
  return a.packing == Packing::w16 ? kernels().w16_i8 : kernels().n4s1_i8;
}

const auto& kernels_f32(const RankedIndex& a) {
  return a.packing == Packing::w16 ? kernels().w16_f32 : kernels().n4s1_f32;
}

}  // namespace

size_t RankedIndex::group_blocks() const {
  return ((groups.columns ? groups.columns : columns) + k - 1) / k;
}

size_t RankedIndex::blocks() const {
  if (groups.columns == 0) return group_blocks();
  return columns / groups.columns * group_blocks() + (columns % groups.columns + k - 1) / k;
}

size_t RankedIndex::index_columns() const {
  const size_t width = shape_of(packing).column_blocks;
  return (blocks() + width - 1) / width;
}

size_t RankedIndex::row_bytes() const {
  if (packing == Packing::w16 || groups.columns == 0)
    return index_columns() * shape_of(packing).cell_bytes;
  const size_t rest = (columns % groups.columns + k - 1) / k;  // blocks of a last, narrower group
  return columns / groups.columns * N4S1::group_bytes(group_blocks()) + N4S1::group_bytes(rest);
}

bool RankedIndex::shares_input(const RankedIndex& other) const {
  return packing == other.packing && columns == other.columns && k == other.k &&
         stride == other.stride && groups.columns == other.groups.columns &&
         std::equal(patterns, patterns + k * kPatterns, other.patterns);
}

void multiply_i8(const RankedProduct<int32_t>* products, size_t size, const int8_t* x, size_t count,
                 Orders orders) {
  Multiplication<int8_t, int16_t, int32_t, int32_t>(kernels_i8(*products[0].index), products, size)
      .run(x, count, orders);
}

void multiply_f32(const RankedProduct<float>* products, size_t size, const float* x, size_t count,
                  Orders orders) {
  Multiplication<float, float, float, float>(kernels_f32(*products[0].index), products, size)
      .run(x, count, orders);
}

void multiply_quantized(const RankedProduct<float>* products, size_t size, const int8_t* x,
                        const float* divisors, size_t count) {
  Multiplication<int8_t, int16_t, int32_t, float>(kernels_i8(*products[0].index), products, size)
      .run(x, count, {}, divisors);
}

void multiply_quantizing(const RankedProduct<float>* products, size_t size, const float* x,
                         size_t count) {
  Multiplication<int8_t, int16_t, int32_t, float>(kernels_i8(*products[0].index), products, size)
      .run_quantizing(x, count, 0);
}

void multiply_group_quantized(const RankedProduct<float>* products, size_t size, const int8_t* x,
                              const float* steps, size_t count) {
  if (products[0].index->groups.columns == 0)
    return multiply_step_groups(products, size, x, steps, count);
  Multiplication<int8_t, int16_t, int32_t, float>(kernels_i8(*products[0].index), products, size)
      .run(x, count, {}, nullptr, steps);
}

void multiply_group_quantizing(const RankedProduct<float>* products, size_t size, const float* x,
                               size_t count) {
  const RankedIndex& a = *products[0].index;
  if (a.groups.columns == 0) return multiply_step_groups(products, size, x, count);
  Multiplication<int8_t, int16_t, int32_t, float>(kernels_i8(a), products, size)
      .run_quantizing(x, count, a.groups.columns);
}

void multiply_each_f32(const RankedProduct<float>* products, size_t size, const float* x) {
  Multiplication<float, float, float, float>(kernels_f32(*products[0].index), products, size)
      .run_each(x);
}

void multiply_each_quantized(const RankedProduct<float>* products, size_t size, const int8_t* x,
                             const float* divisors) {
  Multiplication<int8_t, int16_t, int32_t, float>(kernels_i8(*products[0].index), products, size)
      .run_each(x, divisors);
}

void multiply_each_group_quantized(const RankedProduct<float>* products, size_t size,
                                   const int8_t* x, const float* steps) {
  const RankedIndex& a = *products[0].index;
  if (a.groups.columns == 0) {  // step_groups.h takes one vector for all
    for (size_t j = 0; j < size; j++)
      multiply_step_groups(products + j, 1, x + j * a.columns, steps + j * a.step_count(), 1);
    return;
  }
  Multiplication<int8_t, int16_t, int32_t, float>(kernels_i8(a), products, size)
      .run_each(x, nullptr, steps);
}

}  // namespace rsr
