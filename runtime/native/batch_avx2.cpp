// Many vectors at once on AVX2 (batch_tables.h): 32 of int8 or 16 of float32 in two registers.
#include "batch_tables.h"

namespace rsr {
namespace {

struct Int16x32 {
  using X = int8_t;
  using Pattern = int16_t;
  using Y = int32_t;
  using Number = int16_t;
  struct Value {
    __m256i low, high;
  };
  static constexpr size_t kLanes = 32;
  static constexpr bool kWidens = true;

  static Value load(const void* p) {
    return {load_256(p), load_256(static_cast<const char*>(p) + 32)};
  }
  static void store(void* p, Value v) {
    store_256(p, v.low);
    store_256(static_cast<char*>(p) + 32, v.high);
  }
  static Value add(Value a, Value b) {
    return {_mm256_add_epi16(a.low, b.low), _mm256_add_epi16(a.high, b.high)};
  }
  static Value subtract(Value a, Value b) {
    return {_mm256_sub_epi16(a.low, b.low), _mm256_sub_epi16(a.high, b.high)};
  }
  static Value times(Value a, int16_t p) {
    const __m256i by = _mm256_set1_epi16(p);
    return {_mm256_mullo_epi16(a.low, by), _mm256_mullo_epi16(a.high, by)};
  }
  static void widen(int16_t* tile, int32_t* sums, size_t count) {
    for (size_t i = 0; i < count; i += 8) {
      const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(tile + i));
      store_256(sums + i, _mm256_add_epi32(load_256(sums + i), _mm256_cvtepi16_epi32(eight)));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(tile + i), _mm_setzero_si128());
    }
  }
  static const int32_t* result(const int16_t*, const int32_t* sums) { return sums; }
};

struct Float32x16 {
  using X = float;
  using Pattern = float;
  using Y = float;
  using Number = float;
  struct Value {
    __m256 low, high;
  };
  static constexpr size_t kLanes = 16;
  static constexpr bool kWidens = false;

  static Value load(const void* p) {
    const float* from = static_cast<const float*>(p);
    return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
  }
  static void store(void* p, Value v) {
    _mm256_storeu_ps(static_cast<float*>(p), v.low);
    _mm256_storeu_ps(static_cast<float*>(p) + 8, v.high);
  }
  static Value add(Value a, Value b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
  }
  static Value subtract(Value a, Value b) {
    return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
  }
  static Value times(Value a, float p) {
    const __m256 by = _mm256_set1_ps(p);
    return {_mm256_mul_ps(a.low, by), _mm256_mul_ps(a.high, by)};
  }
  static void widen(const float*, float*, size_t) {}
  static const float* result(const float* tile, const float*) { return tile; }
};

}  // namespace

void fill_batch_avx2(KernelTable& table) {
  table.w16_i8.batch[0] = TableBatch<Int16x32, W16>::kernels(4, 32);
  table.n4s1_i8.batch[0] = TableBatch<Int16x32, N4S1>::kernels(4, 32);
  table.w16_f32.batch[0] = TableBatch<Float32x16, W16>::kernels(4, 16);
  table.n4s1_f32.batch[0] = TableBatch<Float32x16, N4S1>::kernels(4, 16);
}

}  // namespace rsr
