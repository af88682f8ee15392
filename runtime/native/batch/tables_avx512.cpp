// Many float32 vectors at once on AVX-512 (batch_tables.h): 16 of them fill a register.
#include "batch/tables.h"

namespace rsr {
namespace {

struct Float32x16 {
  using X = float;
  using Pattern = float;
  using Y = float;
  using Number = float;
  using Value = __m512;
  static constexpr size_t kLanes = 16;
  static constexpr int kShift = 3;
  static constexpr bool kWidens = false;

  static Value load(const void* p) { return _mm512_loadu_ps(p); }
  static void store(void* p, Value v) { _mm512_storeu_ps(p, v); }
  static Value add(Value a, Value b) { return _mm512_add_ps(a, b); }
  static Value times(Value a, float p) { return _mm512_mul_ps(a, _mm512_set1_ps(p)); }
  static void widen(const float*, float*, size_t) {}
  static const float* result(const float* tile, const float*) { return tile; }
};

}  // namespace

void fill_batch_avx512(KernelTable& table) {
  // Those of AVX2 do not pay where a single product is faster, but for many vectors of n4s1_i8.
  table.w16_i8.batch[1] = table.w16_i8.batch[2] = {};
  table.n4s1_i8.batch[0] = table.n4s1_i8.batch[1] = {};
  table.n4s1_i8.batch[2].least = 27;
  table.w16_f32.batch[0] = TableBatch<Float32x16, W16>::kernels(16, 16);
  table.w16_f32.batch[1] = {};
  table.n4s1_f32.batch[0] = TableBatch<Float32x16, N4S1>::kernels(13, 16);
  table.n4s1_f32.batch[1] = {};
}

}  // namespace rsr
