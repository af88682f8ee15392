// Many float32 vectors at once, AVX-512 (tables.h): 16 lanes fill a register.
#include "batch/grouped_tables.h"

namespace rsr {
namespace {

struct Float32 : FloatTypes {
  using Register = __m512;

  static __m512 load(const void* p) { return _mm512_loadu_ps(p); }
  static void store(void* p, __m512 v) { _mm512_storeu_ps(p, v); }
  static __m512 add(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
  static __m512 times(__m512 a, float p) { return _mm512_mul_ps(a, _mm512_set1_ps(p)); }
};

}  // namespace

void fill_tables_avx512(KernelTable& table) {
  table.w16_f32.medium_batch = TableProduct<Lanes<Float32, 1>, W16Ranks>::kernel(16);
  table.w16_f32.small_grouped_batch = GroupedFloatTableProduct<Lanes<Float32, 1>>::kernel(13);
  table.n4s1_f32.medium_batch = TableProduct<Lanes<Float32, 1>, N4S1Ranks>::kernel(13);
}

}  // namespace rsr
