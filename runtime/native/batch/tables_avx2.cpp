// Many vectors at once on AVX2 (batch_tables.h): one register holds 16 of int8 or 8 of float32, and
// an entry is one or two registers.
#include "batch/tables.h"

namespace rsr {
namespace {

template <int N>  // registers
struct Int16 {
  using X = int8_t;
  using Pattern = int16_t;
  using Y = int32_t;
  using Number = int16_t;
  struct Value {
    __m256i part[N];
  };
  static constexpr size_t kLanes = 16 * N;
  static constexpr int kShift = 1 + N;
  static constexpr bool kWidens = true;

  static Value load(const void* p) {
    Value v;
    for (int i = 0; i < N; i++) v.part[i] = load_256(static_cast<const char*>(p) + 32 * i);
    return v;
  }
  static void store(void* p, Value v) {
    for (int i = 0; i < N; i++) store_256(static_cast<char*>(p) + 32 * i, v.part[i]);
  }
  static Value add(Value a, Value b) {
    for (int i = 0; i < N; i++) a.part[i] = _mm256_add_epi16(a.part[i], b.part[i]);
    return a;
  }
  static Value times(Value a, int16_t p) {
    for (int i = 0; i < N; i++) a.part[i] = _mm256_mullo_epi16(a.part[i], _mm256_set1_epi16(p));
    return a;
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

template <int N>
struct Float32 {
  using X = float;
  using Pattern = float;
  using Y = float;
  using Number = float;
  struct Value {
    __m256 part[N];
  };
  static constexpr size_t kLanes = 8 * N;
  static constexpr int kShift = 1 + N;
  static constexpr bool kWidens = false;

  static Value load(const void* p) {
    Value v;
    for (int i = 0; i < N; i++) v.part[i] = _mm256_loadu_ps(static_cast<const float*>(p) + 8 * i);
    return v;
  }
  static void store(void* p, Value v) {
    for (int i = 0; i < N; i++) _mm256_storeu_ps(static_cast<float*>(p) + 8 * i, v.part[i]);
  }
  static Value add(Value a, Value b) {
    for (int i = 0; i < N; i++) a.part[i] = _mm256_add_ps(a.part[i], b.part[i]);
    return a;
  }
  static Value times(Value a, float p) {
    for (int i = 0; i < N; i++) a.part[i] = _mm256_mul_ps(a.part[i], _mm256_set1_ps(p));
    return a;
  }
  static void widen(const float*, float*, size_t) {}
  static const float* result(const float* tile, const float*) { return tile; }
};

}  // namespace

void fill_batch_avx2(KernelTable& table) {
  // From how many vectors on each is faster: measured on Zen 4 (docs/performance.md).
  table.w16_i8.batch[1] = TableBatch<Int16<1>, W16>::kernels(9, 16);
  table.w16_i8.batch[2] = TableBatch<Int16<2>, W16>::kernels(22, 32);
  table.n4s1_i8.batch[1] = TableBatch<Int16<1>, N4S1>::kernels(13, 16);
  table.n4s1_i8.batch[2] = TableBatch<Int16<2>, N4S1>::kernels(22, 32);
  table.w16_f32.batch[0] = TableBatch<Float32<1>, W16>::kernels(3, 8);
  table.w16_f32.batch[1] = TableBatch<Float32<2>, W16>::kernels(10, 16);
  table.n4s1_f32.batch[0] = TableBatch<Float32<1>, N4S1>::kernels(4, 8);
  table.n4s1_f32.batch[1] = TableBatch<Float32<2>, N4S1>::kernels(12, 16);
}

}  // namespace rsr
