// Many float32 vectors at once, AVX-512 (tables.h): 16 lanes fill a register.
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

void fill_tables_avx512(KernelTable& table) {
  table.w16_f32.medium_batch = TableProduct<Float32x16, W16Ranks>::kernel(16);
  table.n4s1_f32.medium_batch = TableProduct<Float32x16, N4S1Ranks>::kernel(13);
}

}  // namespace rsr
