// Many vectors at once, AVX2 (tables.h): a register holds 16 int16 or 8 float32 lanes; an entry is
// one or two registers.
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
    for (int i = 0; i < N; i++) v.part[i] = rsr::load(static_cast<const char*>(p) + 32 * i);
    return v;
  }
  static void store(void* p, Value v) {
    for (int i = 0; i < N; i++) rsr::store(static_cast<char*>(p) + 32 * i, v.part[i]);
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
      rsr::store(sums + i, _mm256_add_epi32(rsr::load(sums + i), _mm256_cvtepi16_epi32(eight)));
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

void fill_tables_avx2(KernelTable& table, Isa isa) {
  // Thresholds: from so many vectors on, measured on Zen 4 (docs/performance.md). AVX-512 looks up
  // int8 vectors faster one at a time, but for many of packing n4s1; its own float tables are
  // wider.
  if (isa >= Isa::avx512) {
    table.n4s1_i8.large_batch = TableProduct<Int16<2>, N4S1Ranks>::kernel(27);
    return;
  }
  table.w16_i8.medium_batch = TableProduct<Int16<1>, W16Ranks>::kernel(9);
  table.w16_i8.large_batch = TableProduct<Int16<2>, W16Ranks>::kernel(22);
  table.n4s1_i8.medium_batch = TableProduct<Int16<1>, N4S1Ranks>::kernel(13);
  table.n4s1_i8.large_batch = TableProduct<Int16<2>, N4S1Ranks>::kernel(22);
  table.w16_f32.small_batch = TableProduct<Float32<1>, W16Ranks>::kernel(3);
  table.w16_f32.medium_batch = TableProduct<Float32<2>, W16Ranks>::kernel(10);
  table.n4s1_f32.small_batch = TableProduct<Float32<1>, N4S1Ranks>::kernel(4);
  table.n4s1_f32.medium_batch = TableProduct<Float32<2>, N4S1Ranks>::kernel(12);
}

}  // namespace rsr
