// AVX2, FMA and F16C: 8 floats, or 16 int8 widened to int16, at a time.
//
// vpmaddwd adds two products of int16 exactly: 2 * 128 * 128 fits int32. vpmaddubsw takes twice as
// many, but saturates.
#include <cstring>

#include "avx2.h"
#include "dense/row_kernels.h"

namespace rsr {
namespace {

__m128i load16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }

// The first bytes of a vector; the others are zero.
template <size_t kBytes>
struct Padded {
  char bytes[kBytes] = {};
  Padded(const void* p, size_t count) { std::memcpy(bytes, p, count); }
};

struct F32 {
  static constexpr size_t kBytes = 4;
  static __m256 load(const void* p) { return _mm256_loadu_ps(static_cast<const float*>(p)); }
};

struct BF16 {
  static constexpr size_t kBytes = 2;
  static __m256 load(const void* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load16(p)), 16));
  }
};

struct F16 {
  static constexpr size_t kBytes = 2;
  static __m256 load(const void* p) { return _mm256_cvtph_ps(load16(p)); }
};

template <class Type>
struct Float : FloatSums {
  static constexpr size_t kWeightBytes = Type::kBytes, kLanes = 8;
  static constexpr int kRowsAlone = 8, kRows = 3, kVectors = 4;
  using Sum = __m256;

  static Sum start(const float*, size_t) { return _mm256_setzero_ps(); }
  static __m256 weights(const char* w, size_t count) {
    if (count == kLanes) return Type::load(w);
    return Type::load(Padded<kLanes * kWeightBytes>(w, count * kWeightBytes).bytes);
  }
  static __m256 inputs(const float* x, size_t count) {
    if (count == kLanes) return F32::load(x);
    return F32::load(Padded<kLanes * sizeof(float)>(x, count * sizeof(float)).bytes);
  }
  static Sum add(Sum sum, __m256 w, __m256 x) { return _mm256_fmadd_ps(w, x, sum); }

  static float total(Sum sum) { return rsr::sum(sum); }
};

struct I8 : QuantizedSums {
  static constexpr size_t kLanes = 16;
  static constexpr int kRowsAlone = 8, kRows = 3, kVectors = 3;
  using Sum = __m256i;

  static Sum start(const int8_t*, size_t) { return _mm256_setzero_si256(); }
  static __m256i weights(const void* w, size_t count) {
    if (count == kLanes) return _mm256_cvtepi8_epi16(load16(w));
    return _mm256_cvtepi8_epi16(load16(Padded<kLanes>(w, count).bytes));
  }
  static __m256i inputs(const int8_t* x, size_t count) { return weights(x, count); }
  static Sum add(Sum sum, __m256i w, __m256i x) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(w, x));
  }

  static int32_t total(Sum sum) {
    const __m128i four =
        _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
  }
};

}  // namespace

void fill_dense_avx2(KernelTable& table) {
  table.dense = kDense<Float<F32>, Float<BF16>, Float<F16>, I8>;
}

}  // namespace rsr
