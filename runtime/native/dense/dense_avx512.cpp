// AVX-512: 16 floats, or 32 int8 widened to int16, at a time; masked loads at the end of a row.
#include <immintrin.h>

#include "dense/row_kernels.h"

namespace rsr {
namespace {

// A full mask compiles to a plain load.
__mmask32 first(size_t count) { return ~uint32_t(0) >> (32 - count); }

struct F32 {
  static constexpr size_t kBytes = 4;
  static __m512 load(const void* p, __mmask32 mask) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p);
  }
};

struct BF16 {
  static constexpr size_t kBytes = 2;
  static __m512 load(const void* p, __mmask32 mask) {
    const __m256i w = _mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(w), 16));
  }
};

struct F16 {
  static constexpr size_t kBytes = 2;
  static __m512 load(const void* p, __mmask32 mask) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), p));
  }
};

template <class Type>
struct Float : FloatSums {
  static constexpr size_t kWeightBytes = Type::kBytes, kLanes = 16;
  static constexpr int kRowsAlone = 8, kRows = 4, kVectors = 6;
  using Sum = __m512;

  static Sum start(const float*, size_t) { return _mm512_setzero_ps(); }
  static __m512 weights(const char* w, size_t count) { return Type::load(w, first(count)); }
  static __m512 inputs(const float* x, size_t count) { return F32::load(x, first(count)); }
  static Sum add(Sum sum, __m512 w, __m512 x) { return _mm512_fmadd_ps(w, x, sum); }
  static float total(Sum sum) { return _mm512_reduce_add_ps(sum); }
};

struct I8 : QuantizedSums {
  static constexpr size_t kLanes = 32;
  static constexpr int kRowsAlone = 8, kRows = 4, kVectors = 5;
  using Sum = __m512i;

  static Sum start(const int8_t*, size_t) { return _mm512_setzero_si512(); }
  static __m512i weights(const void* w, size_t count) {
    return _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(first(count), w));
  }
  static __m512i inputs(const int8_t* x, size_t count) { return weights(x, count); }
  static Sum add(Sum sum, __m512i w, __m512i x) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(w, x));
  }
  static int32_t total(Sum sum) { return _mm512_reduce_add_epi32(sum); }
};

}  // namespace

void fill_dense_avx512(KernelTable& table) {
  table.dense = kDense<Float<F32>, Float<BF16>, Float<F16>, I8>;
}

}  // namespace rsr
