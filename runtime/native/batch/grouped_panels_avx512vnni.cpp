// Many int8 vectors at once, packing w16 with scales of groups of columns, AVX-512 VNNI and VBMI:
// int32 sums of each group in registers (panels_avx512vnni.cpp), then sum * (scale * step) in
// float32.
//
// * Panels hold digit - smallest digit; the sums of a group begin with smallest * sum(x).
// * The panel of a group (4 KiB for 128 inputs) stays in L1 while it meets all vectors of a pass,
//   12 at a time. Scaling 24 accumulators takes 24 vcvtdq2ps, 24 vmulps, 24 vfmadd and 24 stores; a
//   group of 128 inputs has 768 vpdpbusd.
//
// Bound: |sum| < 2^31 (columns_end in packing.h). Intermediate sums are up to twice that and may
// wrap, as vpdpbusd does. The float sums are those of vector/w16_grouped_avx512.cpp, bit by bit.
#include "batch/grouped_panels.h"
#include "batch/vnni_sets.h"

namespace rsr {
namespace {

constexpr size_t kMinVectors = 4;   // with fewer, lookups are as fast
constexpr size_t kMaxVectors = 96;  // of a pass: its inputs stay in L2 while they meet all rows

size_t most_steps(const Grouping& grouping, int k) {
  return GroupedSteps(grouping, k).of(0).steps();
}

// Shared by a pass: what the sums of each group and vector begin with, (group, vector); then the
// inputs, (set, group, step, vector of the set, kStepInputs).
size_t first_sums_bytes(const Grouping& grouping, size_t count) {
  return divide_up(group_count(grouping) * count * sizeof(int32_t), 64) * 64;
}

size_t shared_bytes(const Grouping& grouping, int k, size_t count) {
  return first_sums_bytes(grouping, count) +
         group_count(grouping) * most_steps(grouping, k) * kStepInputs * count;
}

void prepare(const int8_t* x, const int16_t* patterns, int k, size_t columns,
             const Grouping& grouping, size_t count, size_t first, size_t last, void* shared) {
  const size_t inputs = columns * W16::kBlocks * k, groups = group_count(grouping);
  const GroupedSteps steps(grouping, k);
  const size_t group_bytes = steps.of(0).steps() * kStepInputs;
  const int smallest = smallest_digit(patterns, k);
  int32_t* first_sums = static_cast<int32_t*>(shared);
  char* packed = static_cast<char*>(shared) + first_sums_bytes(grouping, count);
  for (size_t set = 0; set < sets_of(count); set++) {
    const size_t begin = set_begin(set, count), width = set_begin(set + 1, count) - begin;
    for (size_t i = begin; i < begin + width; i++) {
      if (i < first || i >= last) continue;
      for (size_t g = 0, block = 0, end; g < groups; g++, block = end) {
        end = group_end(grouping, block);
        const int8_t* from = x + i * inputs;
        int32_t sum = 0;
        for (size_t j = block * k; j < end * k; j++) sum += from[j];
        first_sums[g * count + i] = smallest * sum;
        char* to = packed + (begin * groups + g * width) * group_bytes + (i - begin) * kStepInputs;
        const size_t size = steps.of(g).steps();
        steps.of(g).arrange(from + block * k, [&](size_t step, const char* bytes) {
          for (size_t s = step; s < min(size, step + kPutSteps); s++, bytes += kStepInputs)
            std::memcpy(to + s * width * kStepInputs, bytes, kStepInputs);
        });
      }
    }
  }
}

// Of each thread: the panel of a group, and the float sums of a panel, (vector, kPanelRows).
size_t panel_bytes(const Grouping& grouping, int k) { return most_steps(grouping, k) * kStepBytes; }

size_t per_thread_bytes(const Grouping& grouping, int k, size_t count) {
  return panel_bytes(grouping, k) + count * kPanelRows * sizeof(float);
}

// A set of vectors in a group.
struct Set {
  const char *panel, *x;
  size_t steps;               // of the panel
  const int32_t* first_sums;  // (vector)
  const float* scales;        // (kPanelRows)
  const float* input_steps;   // of the first vector, or null
  size_t groups;              // from one vector's step to the next
  float* sums;                // (vector, kPanelRows)
};

// Adds the scaled sums of a group and of V vectors. Unrolled explicitly: GCC would unroll too late
// to keep the sums in registers.
template <int V>
void multiply_set(const Set& set) {
  __m512i low_i32x16[V], high_i32x16[V];
#if defined(__GNUC__) || defined(__clang__)
  // Here and below: otherwise GCC shares registers of equal sums, and copies sums at every step.
  const auto keep = [](__m512i& sums) { asm("" : "+v"(sums)); };
#else
  const auto keep = [](__m512i&) {};
#endif
#pragma GCC unroll 12
  for (int v = 0; v < V; v++) {
    low_i32x16[v] = high_i32x16[v] = _mm512_set1_epi32(set.first_sums[v]);
    keep(low_i32x16[v]);
    keep(high_i32x16[v]);
  }
  const char *panel = set.panel, *x = set.x;
  for (size_t s = set.steps; s > 0; s--, panel += kStepBytes, x += V * kStepInputs) {
    const __m512i low_u8x64 = load(panel), high_u8x64 = load(panel + 64);
#pragma GCC unroll 12
    for (int v = 0; v < V; v++) {
      int32_t four;
      std::memcpy(&four, x + v * kStepInputs, sizeof four);
      const __m512i x_i8x64 = _mm512_set1_epi32(four);
      low_i32x16[v] = _mm512_dpbusd_epi32(low_i32x16[v], low_u8x64, x_i8x64);
      high_i32x16[v] = _mm512_dpbusd_epi32(high_i32x16[v], high_u8x64, x_i8x64);
    }
  }
#pragma GCC unroll 12
  for (int v = 0; v < V; v++) {
    keep(low_i32x16[v]);
    keep(high_i32x16[v]);
  }
  const __m512 low_scale = _mm512_loadu_ps(set.scales);
  const __m512 high_scale = _mm512_loadu_ps(set.scales + 16);
#pragma GCC unroll 12
  for (int v = 0; v < V; v++) {
    const __m512 step = _mm512_set1_ps(set.input_steps ? set.input_steps[v * set.groups] : 1.0f);
    float* low = set.sums + v * kPanelRows;
    float* high = low + 16;
    _mm512_storeu_ps(low, _mm512_fmadd_ps(_mm512_cvtepi32_ps(low_i32x16[v]),
                                          _mm512_mul_ps(low_scale, step), _mm512_loadu_ps(low)));
    _mm512_storeu_ps(high, _mm512_fmadd_ps(_mm512_cvtepi32_ps(high_i32x16[v]),
                                           _mm512_mul_ps(high_scale, step), _mm512_loadu_ps(high)));
  }
}

using MultiplySet = void (*)(const Set&);
constexpr MultiplySet kMultiplySet[kSetVectors] = {
    multiply_set<1>, multiply_set<2>,  multiply_set<3>,  multiply_set<4>,
    multiply_set<5>, multiply_set<6>,  multiply_set<7>,  multiply_set<8>,
    multiply_set<9>, multiply_set<10>, multiply_set<11>, multiply_set<12>,
};

template <int K>
void multiply_rows(const RankedRows& rows, const GroupScales& scales, const int16_t* patterns,
                   int k, const void* shared, size_t count, void* per_thread, float* y,
                   size_t stride) {
  const Grouping& grouping = scales.grouping;
  const GroupedSteps steps(grouping, k);
  const DigitBytes digits = digit_bytes(patterns, k, smallest_digit(patterns, k));
  const size_t groups = group_count(grouping);
  const size_t group_bytes = steps.of(0).steps() * kStepInputs;
  const int32_t* first_sums = static_cast<const int32_t*>(shared);
  const char* inputs = static_cast<const char*>(shared) + first_sums_bytes(grouping, count);
  char* panel = static_cast<char*>(per_thread);
  float* sums = reinterpret_cast<float*>(panel + panel_bytes(grouping, k));
  for (size_t row = rows.first; row < rows.last; row += kPanelRows) {
    const PanelRows of(rows, row);
    std::memset(sums, 0, count * kPanelRows * sizeof(float));
    for (size_t g = 0; g < groups; g++) {
      alignas(64) float group_scales[kPanelRows];
      load_scales(scales, g, row - rows.first, group_scales);
      steps.make<K>(g, of.words, of.height, rows.columns, digits, panel);
      for (size_t set = 0; set < sets_of(count); set++) {
        const size_t begin = set_begin(set, count), width = set_begin(set + 1, count) - begin;
        kMultiplySet[width - 1]({panel, inputs + (begin * groups + g * width) * group_bytes,
                                 steps.of(g).steps(), first_sums + g * count + begin, group_scales,
                                 scales.steps ? scales.steps + begin * groups + g : nullptr, groups,
                                 sums + begin * kPanelRows});
      }
    }
    for (size_t i = 0; i < count; i++)
      store_rows(load(sums + i * kPanelRows), load(sums + i * kPanelRows + 16),
                 y + i * stride + row - rows.first);
  }
}

void multiply(const RankedRows& rows, const GroupScales& scales, const int16_t* patterns, int k,
              const void* shared, size_t count, void* per_thread, float* y, size_t stride) {
  with_k(k, [&](auto K) {
    multiply_rows<K>(rows, scales, patterns, k, shared, count, per_thread, y, stride);
  });
}

}  // namespace

void fill_grouped_panels_avx512vnni(KernelTable& table) {
  table.w16_i8.large_grouped_batch = {kMinVectors,      kMaxVectors, shared_bytes,
                                      per_thread_bytes, prepare,     multiply};
}

}  // namespace rsr
