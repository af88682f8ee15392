// Many vectors at once, AVX2 (tables.h).
#include "batch/decoding_avx2.h"
#include "batch/grouped_tables.h"
#include "batch/scaling_avx2.h"

namespace rsr {
namespace {

struct Int16 {
  using X = int8_t;
  using Pattern = int16_t;
  using Y = int32_t;
  using Number = int16_t;
  using Register = __m256i;

  static __m256i load(const void* p) { return rsr::load(p); }
  static void store(void* p, __m256i v) { rsr::store(p, v); }
  static __m256i add(__m256i a, __m256i b) { return _mm256_add_epi16(a, b); }
  static __m256i times(__m256i a, int16_t p) { return _mm256_mullo_epi16(a, _mm256_set1_epi16(p)); }
};

struct Float32 : FloatTypes {
  using Register = __m256;

  static __m256 load(const void* p) { return _mm256_loadu_ps(static_cast<const float*>(p)); }
  static void store(void* p, __m256 v) { _mm256_storeu_ps(static_cast<float*>(p), v); }
  static __m256 add(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
  static __m256 times(__m256 a, float p) { return _mm256_mul_ps(a, _mm256_set1_ps(p)); }
};

}  // namespace

void fill_tables_avx2(KernelTable& table, Isa isa) {
  // Thresholds: from so many vectors on, measured on Zen 4 (docs/lab-notes.md). AVX-512
  // has wider tables of its own.
  if (isa >= Isa::avx512) return;
  table.w16_i8.medium_batch = TableProduct<Lanes<Int16, 1>, W16Ranks>::kernel(9);
  table.w16_i8.large_batch = TableProduct<Lanes<Int16, 2>, W16Ranks>::kernel(22);
  table.w16_i8.large_grouped_batch =
      GroupedTables<GroupedTableProduct<Lanes<Int16, 1>, W16Ranks>,
                    GroupedTableProduct<Lanes<Int16, 2>, W16Ranks>>::kernel(9);
  table.n4s1_i8.large_grouped_batch =
      GroupedTables<GroupedTableProduct<Lanes<Int16, 1>, N4S1Ranks>,
                    GroupedTableProduct<Lanes<Int16, 2>, N4S1Ranks>>::kernel(13);
  table.n4s1_i8.medium_batch = TableProduct<Lanes<Int16, 1>, N4S1Ranks>::kernel(13);
  table.n4s1_i8.large_batch = TableProduct<Lanes<Int16, 2>, N4S1Ranks>::kernel(22);
  table.w16_f32.small_batch = TableProduct<Lanes<Float32, 1>, W16Ranks>::kernel(3);
  table.w16_f32.medium_batch = TableProduct<Lanes<Float32, 2>, W16Ranks>::kernel(10);
  table.w16_f32.small_grouped_batch =
      GroupedFloatTableProduct<Lanes<Float32, 1>, W16Ranks>::kernel(3);
  table.w16_f32.large_grouped_batch =
      GroupedFloatTableProduct<Lanes<Float32, 2>, W16Ranks>::kernel(10);
  table.n4s1_f32.small_grouped_batch =
      GroupedFloatTableProduct<Lanes<Float32, 1>, N4S1Ranks>::kernel(4);
  table.n4s1_f32.large_grouped_batch =
      GroupedFloatTableProduct<Lanes<Float32, 2>, N4S1Ranks>::kernel(12);
  table.n4s1_f32.small_batch = TableProduct<Lanes<Float32, 1>, N4S1Ranks>::kernel(4);
  table.n4s1_f32.medium_batch = TableProduct<Lanes<Float32, 2>, N4S1Ranks>::kernel(12);
}

}  // namespace rsr
