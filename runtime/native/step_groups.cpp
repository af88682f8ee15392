// A group of kStepColumns columns is not a whole number of column blocks, so a block that reaches
// into two groups is looked up for both. Each group has its own tables, of all blocks in the word
// columns or units that it reaches into, with the inputs of other groups as 0: 15.1 word columns
// instead of 14.2 on average, or 6.3 units instead of 5.3.
//
// It pays on AVX2: 1.8 times the speed of float32 lookups (n4s1) and 2.9 times (w16), one vector,
// 2048 x 2048, Sapphire Rapids. On AVX-512 it is as fast as they are.
#include "step_groups.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "buffer.h"
#include "decoder/activations.h"
#include "dispatch.h"
#include "parallel.h"

namespace rsr {
namespace {

constexpr size_t kManyVectors = 4;  // from here on float32 kernels are as fast

thread_local Buffer quantized_inputs, input_steps, dequantized_inputs;
thread_local Buffer tables;           // of one vector, all groups
thread_local uint64_t tables_of = 0;  // the product whose tables they are
std::atomic<uint64_t> products_begun{0};

// The word columns or units that a group of inputs reaches into.
struct Reach {
  size_t first, last;  // of the index
  size_t tables;       // bytes of the tables before its own
};

template <class Packing>
class StepGroups {
 public:
  StepGroups(const RankedKernelsI8& kernels, const RankedProduct<float>* products, size_t size)
      : kernel_(kernels.vector), products_(products), a_(*products[0].index) {
    std::copy_n(a_.patterns, a_.k * kPatterns, patterns_);
    for (size_t c = 0; c < a_.columns; c += kStepColumns) {
      const size_t last = std::min(c + kStepColumns, a_.columns);
      const Reach reach{c / width(), divide_up(last, width()), table_bytes_};
      reaches_.push_back(reach);
      const size_t blocks = (reach.last - reach.first) * Packing::kBlocks;
      table_bytes_ +=
          divide_up(kernel_.header_bytes + blocks * kernel_.table_bytes, kLineBytes) * kLineBytes;
    }
    for (size_t p = 0; p < size; p++) {
      strips_ += strips(p);
      bytes_ += products[p].index->bytes();
    }
  }

  // The product with vector number i; x: (columns), steps: (groups).
  void run(const int8_t* x, const float* steps, size_t i) const {
    const uint64_t product = ++products_begun;
    parallel_for(strips_, bytes_, [&](size_t begin, size_t end) {
      if (tables_of != product) build_tables(x);
      tables_of = product;
      for (size_t s = begin; s < end; s++) {
        size_t p = 0, strip = s;
        for (; strip >= strips(p); p++) strip -= strips(p);
        multiply(products_[p], strip * Packing::kStripRows, steps, i);
      }
    });
  }

 private:
  size_t width() const { return Packing::kBlocks * static_cast<size_t>(a_.k); }  // of a column
  size_t strips(size_t p) const {
    return divide_up(products_[p].index->padded_rows(), Packing::kStripRows);
  }

  // Every thread builds the tables for itself, as in ranked.cpp.
  void build_tables(const int8_t* x) const {
    char* const all = static_cast<char*>(tables.get(table_bytes_));
    std::vector<int8_t> inputs;
    for (size_t g = 0; g < reaches_.size(); g++) {
      const Reach& reach = reaches_[g];
      const size_t first = g * kStepColumns, last = std::min(first + kStepColumns, a_.columns);
      inputs.assign((reach.last - reach.first) * width(), 0);
      std::copy(x + first, x + last, inputs.data() + first - reach.first * width());
      kernel_.build_tables(inputs.data(), patterns_, a_.k,
                           (reach.last - reach.first) * Packing::kBlocks, all + reach.tables);
    }
  }

  // A strip that begins with row `top`.
  void multiply(const RankedProduct<float>& product, size_t top, const float* steps,
                size_t i) const {
    const RankedIndex& a = *product.index;
    const char* const all = static_cast<const char*>(tables.get(table_bytes_));
    const size_t end = a.padded_rows() - top, height = strip_height<Packing>(end);
    const uint8_t* const strip = a.data + top * a.row_bytes();
    alignas(kLineBytes) int32_t sums[kMaxStripRows];
    alignas(kLineBytes) float y[kMaxStripRows] = {};
    for (size_t g = 0; g < reaches_.size(); g++) {
      const Reach& reach = reaches_[g];
      const RankedRows rows{strip + reach.first * height * Packing::kCellBytes,
                            0,
                            height,
                            end,
                            reach.last - reach.first,
                            columns_per_widen<Packing>(a.k, a.largest_digit),
                            {0, 0},
                            a.has_few_patterns};
      kernel_.lookup(rows, all + reach.tables, sums);
      for (size_t r = 0; r < height; r++) y[r] += steps[g] * static_cast<float>(sums[r]);
    }
    const size_t last = std::min(top + height, a.rows);
    float* const out = product.y + i * a.rows;
    for (size_t r = top; r < last;) {  // rows that share a scale
      const size_t s = r / a.scale_rows, stop = std::min(last, (s + 1) * a.scale_rows);
      if (a.scale_rows == 1) {
        for (; r < last; r++) out[r] = y[r - top] * a.scale[r];
      } else {
        for (; r < stop; r++) out[r] = y[r - top] * a.scale[s];
      }
    }
  }

  const RankedKernelsI8::Vector& kernel_;
  const RankedProduct<float>* products_;
  const RankedIndex& a_;  // the first index: its input is that of all
  std::vector<Reach> reaches_;
  size_t table_bytes_ = 0, strips_ = 0, bytes_ = 0;
  alignas(kLineBytes) int16_t patterns_[kMaxK * kPatterns];
};

template <class Packing>
void multiply_few(const RankedKernelsI8& kernels, const RankedProduct<float>* products, size_t size,
                  const int8_t* x, const float* steps, size_t count) {
  const StepGroups<Packing> groups(kernels, products, size);
  const RankedIndex& a = *products[0].index;
  for (size_t i = 0; i < count; i++) groups.run(x + i * a.columns, steps + i * a.step_count(), i);
  tables.trim();
  tables_of = 0;
}

// x * step, (count, columns).
const float* dequantized(const RankedIndex& a, const int8_t* x, const float* steps, size_t count) {
  const size_t n = a.columns, groups = a.step_count();
  float* const all = static_cast<float*>(dequantized_inputs.get(count * n * sizeof(float)));
  parallel_for(count, count * n * sizeof(float), [=](size_t begin, size_t end) {
    for (size_t i = begin * groups; i < end * groups; i++) {
      const size_t first = i / groups * n + i % groups * kStepColumns;
      const size_t last = std::min(first + kStepColumns, (i / groups + 1) * n);
      for (size_t c = first; c < last; c++) all[c] = static_cast<float>(x[c]) * steps[i];
    }
  });
  return all;
}

}  // namespace

void multiply_step_groups(const RankedProduct<float>* products, size_t size, const int8_t* x,
                          const float* steps, size_t count) {
  const RankedIndex& a = *products[0].index;
  if (count >= kManyVectors || a.stride > 1) {  // with a stride a block reaches into many groups
    multiply_f32(products, size, dequantized(a, x, steps, count), count);
    dequantized_inputs.trim();
  } else if (a.packing == Packing::w16) {
    multiply_few<W16>(kernels().w16_i8, products, size, x, steps, count);
  } else {
    multiply_few<N4S1>(kernels().n4s1_i8, products, size, x, steps, count);
  }
}

void multiply_step_groups(const RankedProduct<float>* products, size_t size, const float* x,
                          size_t count) {
  const RankedIndex& a = *products[0].index;
  int8_t* const q = static_cast<int8_t*>(quantized_inputs.get(count * a.columns));
  float* const steps = static_cast<float*>(input_steps.get(count * a.step_count() * sizeof(float)));
  quantize_groups_i8(x, count, a.columns, kStepColumns, q, steps);
  multiply_step_groups(products, size, q, steps, count);
  quantized_inputs.trim();
  input_steps.trim();
}

}  // namespace rsr
