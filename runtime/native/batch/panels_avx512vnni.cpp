// Many int8 vectors at once, packing w16, AVX-512 VNNI and VBMI: vpdpbusd multiplies 16 x 4 digits
// by 4 inputs and adds the products in one instruction. The digits come from panels (panels.h).
//
// * vpdpbusd multiplies unsigned by signed: panels hold digit - smallest digit, and the sums begin
//   with smallest * sum(x).
// * 2 x 12 accumulators: 2 loads and 12 vpbroadcastd feed 24 vpdpbusd, 1536 multiply-adds in 12
//   cycles on Sapphire Rapids.
// * A panel of 32 rows and the packed inputs of 12 vectors stay in L1 (25 KiB for k = 3). A block
//   of inputs meets a whole strip, so it is read from L2 or beyond once per 128 rows.
//
// Bound: |sum| < 2^31 (columns_end in packing.h). Intermediate sums are up to twice that and may
// wrap; vpdpbusd wraps modulo 2^32 (vpdpbusds would saturate), so the final sum is exact.
#include <cstring>

#include "batch/panels.h"
#include "batch/vnni_sets.h"

namespace rsr {
namespace {

constexpr size_t kMinVectors = 16;   // with fewer, the lookups of avx512 are as fast
constexpr size_t kMaxVectors = 256;  // of a pass: its sums and a block of its inputs fit L2

// Shared by a pass: for each vector the sum that its rows begin with, then the inputs in blocks,
// each (set, step, vector of the set, kStepInputs).
size_t first_sums_bytes(size_t count) { return divide_up(count * sizeof(int32_t), 64) * 64; }

size_t shared_bytes(size_t columns, int k, size_t count) {
  return first_sums_bytes(count) + blocks_of(columns, k) * block_inputs(k) * count;
}

void prepare(const int8_t* x, const int16_t* patterns, int k, size_t columns, size_t count,
             size_t first, size_t last, void* shared) {
  const size_t inputs = columns * bundle_inputs(k) / kBundleColumns, block = block_inputs(k);
  const int smallest = smallest_digit(patterns, k);
  const Arrangement arrange(k);
  int32_t* first_sums = static_cast<int32_t*>(shared);
  char* packed = static_cast<char*>(shared) + first_sums_bytes(count);
  for (size_t set = 0; set < sets_of(count); set++) {
    const size_t begin = set_begin(set, count), width = set_begin(set + 1, count) - begin;
    for (size_t i = begin; i < begin + width; i++) {
      if (i < first || i >= last) continue;
      const int8_t* from = x + i * inputs;
      int32_t sum = 0;
      for (size_t j = 0; j < inputs; j++) sum += from[j];
      first_sums[i] = smallest * sum;
      for (size_t done = 0; done < inputs; done += block) {
        BlockInputs steps;
        const size_t here = min(inputs - done, block);
        const size_t size = arrange(from + done, here, steps.bytes) - steps.bytes;
        char* to = packed + done * count + begin * block + (i - begin) * kStepInputs;
        for (size_t j = 0; j < size; j += kStepInputs)
          std::memcpy(to + j * width, steps.bytes + j, kStepInputs);
      }
    }
  }
}

// Of each thread: a panel and the sums of a strip, (panel, vector, kPanelRows).
size_t per_thread_bytes(size_t, int k, size_t count) {
  return block_steps(k) * kStepBytes + W16::kStripRows * count * sizeof(int32_t);
}

// Adds the products of a panel and a set of V vectors to their sums. Unrolled explicitly: GCC would
// unroll too late to keep the sums in registers.
template <int V>
void multiply_set(const char* panel, const char* x, size_t steps, int32_t* sums) {
  __m512i low_i32x16[V], high_i32x16[V];
#pragma GCC unroll 12
  for (int v = 0; v < V; v++) {
    low_i32x16[v] = _mm512_loadu_si512(sums + v * kPanelRows);
    high_i32x16[v] = _mm512_loadu_si512(sums + v * kPanelRows + 16);
  }
  for (size_t s = 0; s < steps; s++, panel += kStepBytes, x += V * kStepInputs) {
    const __m512i low_u8x64 = _mm512_loadu_si512(panel);
    const __m512i high_u8x64 = _mm512_loadu_si512(panel + 64);
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
    _mm512_storeu_si512(sums + v * kPanelRows, low_i32x16[v]);
    _mm512_storeu_si512(sums + v * kPanelRows + 16, high_i32x16[v]);
  }
}

using MultiplySet = void (*)(const char* panel, const char* x, size_t steps, int32_t* sums);
constexpr MultiplySet kMultiplySet[kSetVectors] = {
    multiply_set<1>, multiply_set<2>,  multiply_set<3>,  multiply_set<4>,
    multiply_set<5>, multiply_set<6>,  multiply_set<7>,  multiply_set<8>,
    multiply_set<9>, multiply_set<10>, multiply_set<11>, multiply_set<12>,
};

template <int K>
void multiply(const RankedRows& rows, const int16_t* patterns, int k, const void* shared,
              size_t count, void* per_thread, int32_t* y, size_t stride) {
  const DigitBytes digits = digit_bytes(patterns, k, smallest_digit(patterns, k));
  const int32_t* first_sums = static_cast<const int32_t*>(shared);
  const char* inputs = static_cast<const char*>(shared) + first_sums_bytes(count);
  char* panel = static_cast<char*>(per_thread);
  int32_t* sums = reinterpret_cast<int32_t*>(panel + block_steps(k) * kStepBytes);
  const size_t panel_sums = count * kPanelRows;
  for (size_t row = rows.first, stop; row < rows.last; row = stop) {
    const size_t strip = row / W16::kStripRows * W16::kStripRows;
    const size_t height = strip_height<W16>(rows.end - strip);
    stop = min(rows.last, strip + height);
    const size_t panels = (stop - row) / kPanelRows;
    const uint16_t* words = reinterpret_cast<const uint16_t*>(rows.index) + strip * rows.columns;
    for (size_t p = 0; p < panels; p++)
      for (size_t i = 0; i < count * 2; i++)
        _mm512_storeu_si512(sums + p * panel_sums + i * 16, _mm512_set1_epi32(first_sums[i / 2]));
    for (size_t g0 = 0; g0 < bundles_of(rows.columns); g0 += block_bundles(k)) {
      const char* x = inputs + g0 * bundle_inputs(k) * count;
      for (size_t p = 0; p < panels; p++) {
        char* to = panel;
        for (size_t c = g0 * kBundleColumns;
             c < rows.columns && c < (g0 + block_bundles(k)) * kBundleColumns;
             c += kBundleColumns) {
          make_bundle<K>(words + c * height + row - strip + p * kPanelRows, height,
                         rows.columns - c, k, digits, to);
          to += bundle_steps(k) * kStepBytes;
        }
        for (size_t set = 0; set < sets_of(count); set++) {
          const size_t begin = set_begin(set, count), width = set_begin(set + 1, count) - begin;
          kMultiplySet[width - 1](panel, x + begin * block_inputs(k), (to - panel) / kStepBytes,
                                  sums + p * panel_sums + begin * kPanelRows);
        }
      }
    }
    for (size_t p = 0; p < panels; p++)
      for (size_t i = 0; i < count; i++) {
        const int32_t* low = sums + p * panel_sums + i * kPanelRows;
        store_rows(load(low), load(low + 16), y + i * stride + row - rows.first + p * kPanelRows);
      }
  }
}

void multiply_any(const RankedRows& rows, const int16_t* patterns, int k, const void* shared,
                  size_t count, void* per_thread, int32_t* y, size_t stride) {
  with_k(k, [&](auto K) { multiply<K>(rows, patterns, k, shared, count, per_thread, y, stride); });
}

}  // namespace

void fill_panels_avx512vnni(KernelTable& table) {
  table.w16_i8.medium_batch = {kMinVectors,      kMaxVectors, shared_bytes,
                               per_thread_bytes, prepare,     multiply_any};
}

}  // namespace rsr
