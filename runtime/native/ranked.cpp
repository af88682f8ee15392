#include "ranked.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <type_traits>

#include "buffer.h"
#include "dispatch.h"
#include "parallel.h"

namespace rsr {
namespace {

constexpr size_t kTaskRows = 64;              // rows handed to a thread at once, at least
constexpr size_t kRowsThroughScratch = 1024;  // rows of a batch at once, where y cannot hold sums
static_assert(kTaskRows % kRowUnit == 0 && kRowsThroughScratch % kRowUnit == 0);

struct PackingShape {
  size_t strip_rows, column_blocks, cell_bytes;
  size_t (*columns_per_widen)(int k);
};

template <class Packing>
constexpr PackingShape kShape = {Packing::kStripRows, Packing::kBlocks, Packing::kCellBytes,
                                 columns_per_widen<Packing>};

const PackingShape& shape_of(Packing packing) {
  return packing == Packing::w16 ? kShape<W16> : kShape<N4S1>;
}

// Scratch of a thread. `input` and `shared` serve products that the thread starts, the others its
// share of any product. The caller's is trimmed when its product ends, a worker's
// when it next asks for memory.
struct Scratch {
  Buffer input, shared, outputs, scales, per_thread;
  uint64_t tables_of = 0;  // the product whose tables `per_thread` holds

  void trim() {
    for (Buffer* b : {&input, &shared, &outputs, &scales, &per_thread}) b->trim();
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
    columns_per_widen_ = shape.columns_per_widen(a_.k);
    std::copy(a_.patterns, a_.patterns + a_.k * kPatterns, patterns_);
    for (size_t p = 0; p < size; p++) {
      tasks_ += tasks(*products[p].index);
      bytes_ += products[p].index->bytes();
    }
  }

  // divisors: one per vector; steps: one per vector and group; null if the output has none.
  void run(const X* x, size_t count, const float* divisors, const float* steps = nullptr) {
    struct Trim {
      ~Trim() { scratch.trim(); }
    } at_the_end;
    divisors_ = divisors;
    steps_ = steps;
    x = padded(x, count);
    for (size_t done = 0; done < count;)
      done += multiply_some(x + done * inputs_, count - done, done);
  }

 private:
  static size_t tasks(const RankedIndex& a) {
    return (a.padded_rows() + kTaskRows - 1) / kTaskRows;
  }

  // x zero-padded after each vector and each group, so that every column block has k adjacent
  // inputs.
  const X* padded(const X* x, size_t count) const {
    if (a_.stride > 1) return gathered(x, count);
    if (a_.columns == inputs_) return x;
    const size_t group = a_.groups.columns ? a_.groups.columns : std::max<size_t>(1, a_.columns);
    const size_t step = a_.group_blocks() * a_.k;
    X* copy = static_cast<X*>(scratch.input.get(count * inputs_ * sizeof(X)));
    std::fill(copy, copy + count * inputs_, X(0));
    for (size_t i = 0; i < count; i++)
      for (size_t c = 0, to = i * inputs_; c < a_.columns; c += group, to += step)
        std::copy_n(x + i * a_.columns + c, std::min(group, a_.columns - c), copy + to);
    return copy;
  }

  // The same where the inputs of a block are `stride` apart: `stride` blocks cover a run of
  // columns, and a group is whole runs.
  const X* gathered(const X* x, size_t count) const {
    const size_t k = a_.k, run = k * a_.stride;
    X* to = static_cast<X*>(scratch.input.get(count * inputs_ * sizeof(X)));
    const X* const copy = to;
    for (size_t i = 0; i < count; i++) {
      for (size_t c = 0; c < a_.columns; c += run, x += run)
        for (size_t j = 0; j < a_.stride; j++)
          for (size_t p = 0; p < k; p++) *to++ = x[p * a_.stride + j];
      to = std::fill_n(to, inputs_ - a_.columns, X(0));
    }
    return copy;
  }

  // Multiplies by the next vectors, as many as one kernel takes, and returns their number.
  size_t multiply_some(const X* x, size_t left, size_t done) const {
    if (blocks_ != 0 && is_grouped()) {
      for (const GroupedBatch* batch :
           {&kernels_.large_grouped_batch, &kernels_.small_grouped_batch})
        if (const size_t pass = pass_of(*batch, x, left)) {
          multiply_grouped_batch(*batch, x, pass, done);
          return pass;
        }
    } else if (blocks_ != 0) {
      for (const Batch* batch :
           {&kernels_.large_batch, &kernels_.medium_batch, &kernels_.small_batch})
        if (const size_t pass = pass_of(*batch, x, left)) {
          multiply_batch(*batch, x, pass, done);
          return pass;
        }
    }
    multiply_vector(x, done);
    return 1;
  }

  // How many of the next vectors a batch kernel takes in one pass; 0 if another kernel is faster.
  template <class Kernel>
  size_t pass_of(const Kernel& batch, const X* x, size_t left) const {
    if (batch.min_vectors == 0) return 0;
    size_t pass = std::min(batch.max_vectors, left);
    if (batch.takes)
      for (size_t i = 0; i < pass; i++)
        if (!batch.takes(x + i * inputs_, inputs_)) pass = i;
    return pass < batch.min_vectors ? 0 : pass;
  }

  // Calls part(product, first row, last row) on all threads until all rows of all products are
  // done.
  template <class Part>
  void for_each_part(size_t cost, const Part& part) const {
    parallel_for(tasks_, cost, [&](size_t begin, size_t end) {
      size_t before = 0;  // tasks of the products before this one
      for (size_t p = 0; p < size_ && before < end; p++) {
        const RankedIndex& a = *products_[p].index;
        const size_t here = tasks(a);
        if (before + here > begin) {
          const size_t first = std::max(begin, before) - before;
          const size_t last = std::min(end - before, here);
          part(products_[p], first * kTaskRows, std::min(last * kTaskRows, a.padded_rows()));
        }
        before += here;
      }
    });
  }

  RankedRows rows_from_strip(const RankedIndex& a, size_t strip, size_t first, size_t last) const {
    const size_t start = strip * shape_of(a.packing).strip_rows;
    return {a.data + start * a.row_bytes(), first - start,     last - start,
            a.padded_rows() - start,        a.index_columns(), columns_per_widen_};
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
      kernel.build_tables(x, patterns_, a_.k, blocks_, tables);
      scratch.tables_of = product;
    }
    return tables;
  }

  void multiply_vector(const X* x, size_t done) const {
    const uint64_t product = ++products_begun;
    const size_t strip_rows = shape_of(a_.packing).strip_rows;
    for_each_part(bytes_, [&](const RankedProduct<Out>& p, size_t first, size_t last) {
      const RankedIndex& a = *p.index;
      const void* tables = per_thread_tables(x, product);
      for (size_t r = first, stop; r < last; r = stop) {
        const size_t strip = r / strip_rows;
        stop = std::min(last, (strip + 1) * strip_rows);
        alignas(kLineBytes) Y sums[kMaxStripRows];
        Out* y = p.y + done * a.rows + r;
        if (is_grouped()) {
          lookup_grouped(a, rows_from_strip(a, strip, r, stop), r, tables, y, done);
          continue;
        }
        Y* to = place_for_sums(y, stop <= a.rows, sums);
        kernels_.vector.lookup(rows_from_strip(a, strip, r, stop), tables, to);
        apply_scale(a, r, std::min(stop, a.rows), to, y, divisor(done));
      }
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
    for_each_part(bytes_ * count, [&](const RankedProduct<Out>& p, size_t first, size_t last) {
      const RankedIndex& a = *p.index;
      void* per_thread = scratch.per_thread.get(batch.per_thread_bytes(columns, a_.k, count));
      scratch.tables_of = 0;
      const bool in_place = std::is_same_v<Y, Out> && last <= a.rows;
      const size_t rows = in_place ? last - first : kRowsThroughScratch;
      for (size_t top = first; top < last; top += rows) {
        const size_t bottom = std::min(last, top + rows);
        const size_t stride = in_place ? a.rows : bottom - top;
        Out* y = p.y + done * a.rows + top;
        Y* to = place_for_sums(
            y, in_place,
            in_place ? nullptr : static_cast<Y*>(scratch.outputs.get(count * stride * sizeof(Y))));
        batch.multiply(rows_from_strip(a, top / shape_of(a.packing).strip_rows, top, bottom),
                       patterns_, a_.k, shared, count, per_thread, to, stride);
        for (size_t i = 0; i < count; i++)
          apply_scale(a, top, std::min(bottom, a.rows), to + i * stride, y + i * a.rows,
                      divisor(done + i));
      }
    });
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
      for_each_part(bytes_ * count, [&](const RankedProduct<Out>& p, size_t first, size_t last) {
        const RankedIndex& a = *p.index;
        void* per_thread = scratch.per_thread.get(batch.per_thread_bytes(grouping(), a_.k, count));
        scratch.tables_of = 0;
        const auto multiply = [&](size_t top, size_t bottom, float* to, size_t stride) {
          batch.multiply(rows_from_strip(a, top / shape_of(a.packing).strip_rows, top, bottom),
                         scales_of(a, top, bottom, done), patterns_, a_.k, shared, count,
                         per_thread, to, stride);
          for (size_t i = 0; i < count; i++)
            divide(to + i * stride, std::min(bottom, a.rows) - top, divisor(done + i),
                   p.y + (done + i) * a.rows + top);
        };
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

size_t RankedIndex::group_count() const { return divide_up(blocks(), group_blocks()); }

size_t RankedIndex::blocks() const {
  if (groups.columns == 0) return group_blocks();
  return columns / groups.columns * group_blocks() + (columns % groups.columns + k - 1) / k;
}

size_t RankedIndex::index_columns() const {
  const size_t width = shape_of(packing).column_blocks;
  return (blocks() + width - 1) / width;
}

size_t RankedIndex::row_bytes() const { return index_columns() * shape_of(packing).cell_bytes; }

bool RankedIndex::shares_input(const RankedIndex& other) const {
  return packing == other.packing && columns == other.columns && k == other.k &&
         stride == other.stride && groups.columns == other.groups.columns &&
         std::equal(patterns, patterns + k * kPatterns, other.patterns);
}

void multiply_i8(const RankedProduct<int32_t>* products, size_t size, const int8_t* x,
                 size_t count) {
  Multiplication<int8_t, int16_t, int32_t, int32_t>(kernels_i8(*products[0].index), products, size)
      .run(x, count, nullptr);
}

void multiply_f32(const RankedProduct<float>* products, size_t size, const float* x, size_t count) {
  Multiplication<float, float, float, float>(kernels_f32(*products[0].index), products, size)
      .run(x, count, nullptr);
}

void multiply_quantized(const RankedProduct<float>* products, size_t size, const int8_t* x,
                        const float* divisors, size_t count) {
  Multiplication<int8_t, int16_t, int32_t, float>(kernels_i8(*products[0].index), products, size)
      .run(x, count, divisors);
}

void multiply_group_quantized(const RankedProduct<float>* products, size_t size, const int8_t* x,
                              const float* steps, size_t count) {
  Multiplication<int8_t, int16_t, int32_t, float>(kernels_i8(*products[0].index), products, size)
      .run(x, count, nullptr, steps);
}

}  // namespace rsr
