// Many vectors at once, AVX-512 (tables.h): 16 lanes of float32 or 32 of int16 fill a register, and
// two registers share the decoding of ranks.
#include "batch/decoding_avx2.h"
#include "batch/grouped_tables.h"
#include "batch/scaling_avx2.h"

namespace rsr {
namespace {

struct Float32 : FloatTypes {
  using Register = __m512;

  static __m512 load(const void* p) { return _mm512_loadu_ps(p); }
  static void store(void* p, __m512 v) { _mm512_storeu_ps(p, v); }
  static __m512 add(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
  static __m512 times(__m512 a, float p) { return _mm512_mul_ps(a, _mm512_set1_ps(p)); }
};

struct Int16 {
  using X = int8_t;
  using Pattern = int16_t;
  using Y = int32_t;
  using Number = int16_t;
  using Register = __m512i;

  static __m512i load(const void* p) { return _mm512_loadu_si512(p); }
  static void store(void* p, __m512i v) { _mm512_storeu_si512(p, v); }
  static __m512i add(__m512i a, __m512i b) { return _mm512_add_epi16(a, b); }
  static __m512i times(__m512i a, int16_t p) { return _mm512_mullo_epi16(a, _mm512_set1_epi16(p)); }
};

template <class Packing>
using GroupedInt16 = GroupedTables<GroupedTableProduct<Lanes<Int16, 1>, Packing>,
                                   GroupedTableProduct<TwoTables<Int16>, Packing>>;

}  // namespace

void fill_tables_avx512(KernelTable& table) {
  table.w16_i8.large_grouped_batch = GroupedInt16<W16Ranks>::kernel(24);
  table.n4s1_i8.large_grouped_batch = GroupedInt16<N4S1Ranks>::kernel(16);
  table.n4s1_i8.medium_batch = TableProduct<Lanes<Int16, 1>, N4S1Ranks>::kernel(27);
  table.n4s1_i8.large_batch = TableProduct<TwoTables<Int16>, N4S1Ranks>::kernel(59);

  table.w16_f32.small_batch = TableProduct<Lanes<Float32, 1>, W16Ranks>::kernel(16);
  table.w16_f32.medium_batch = TableProduct<TwoTables<Float32>, W16Ranks>::kernel(32, 4);
  table.w16_f32.small_grouped_batch =
      GroupedFloatTableProduct<Lanes<Float32, 1>, W16Ranks>::kernel(13);
  table.w16_f32.large_grouped_batch =
      GroupedFloatTableProduct<TwoTables<Float32>, W16Ranks>::kernel(25, 2);
  table.n4s1_f32.small_batch = TableProduct<Lanes<Float32, 1>, N4S1Ranks>::kernel(13);
  table.n4s1_f32.medium_batch = TableProduct<TwoTables<Float32>, N4S1Ranks>::kernel(27, 4);
  table.n4s1_f32.small_grouped_batch =
      GroupedFloatTableProduct<Lanes<Float32, 1>, N4S1Ranks>::kernel(13);
  table.n4s1_f32.large_grouped_batch =
      GroupedFloatTableProduct<TwoTables<Float32>, N4S1Ranks>::kernel(25, 2);
}

}  // namespace rsr
