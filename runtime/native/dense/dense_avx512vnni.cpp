// AVX-512 VNNI: vpdpbusd multiplies 64 int8 at a time.
//
// It multiplies unsigned by signed: weights are taken as w + 128 (the top bit flipped), and the sum
// of a vector begins with -128 times the sum of its inputs.
// Bound: an intermediate sum is at most 255 * 128 * 2^17 in magnitude, beyond int32, but vpdpbusd
// wraps modulo 2^32 (vpdpbusds would saturate), so the final sum, which fits (table.h), is exact.
#include <immintrin.h>

#include "dense/row_kernels.h"

namespace rsr {
namespace {

struct I8 : QuantizedSums {
  static constexpr size_t kLanes = 64;
  // Measured on Zen 4: farther ahead, a large head takes 1.1 to 1.25 times as long. Only rows read
  // one after the other use it: those of dense_in_order (tuning.h), elsewhere the last few.
  static constexpr size_t kPrefetchBytes = 2048;
  static constexpr int kRowsAlone = 8, kRows = 4, kVectors = 6;
  using Sum = __m512i;

  static __m512i load(const void* p, size_t count) {
    return _mm512_maskz_loadu_epi8(~uint64_t(0) >> (64 - count), p);
  }

  static Sum start(const int8_t* x, size_t columns) {
    __m512i sum = _mm512_setzero_si512();
    for (size_t j = 0; j < columns; j += kLanes)
      sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), inputs(x + j, min(columns - j, kLanes)));
    return _mm512_slli_epi32(_mm512_sub_epi32(_mm512_setzero_si512(), sum), 7);
  }

  static __m512i weights(const char* w, size_t count) {
    return _mm512_xor_si512(load(w, count), _mm512_set1_epi8(-128));
  }
  static __m512i inputs(const int8_t* x, size_t count) { return load(x, count); }
  static Sum add(Sum sum, __m512i w, __m512i x) { return _mm512_dpbusd_epi32(sum, w, x); }
  static int32_t total(Sum sum) { return _mm512_reduce_add_epi32(sum); }
};

}  // namespace

void fill_dense_avx512vnni(KernelTable& table) { table.dense.i8 = multiply_dense_rows<I8>; }

}  // namespace rsr
