// Many vectors at once, NEON (tables.h).
#include "batch/decoding_neon.h"
#include "batch/grouped_tables.h"
#include "batch/scaling_neon.h"

namespace rsr {
namespace {

struct Int16 {
  using X = int8_t;
  using Pattern = int16_t;
  using Y = int32_t;
  using Number = int16_t;
  using Register = int16x8_t;

  static int16x8_t load(const void* p) { return vld1q_s16(static_cast<const int16_t*>(p)); }
  static void store(void* p, int16x8_t v) { vst1q_s16(static_cast<int16_t*>(p), v); }
  static int16x8_t add(int16x8_t a, int16x8_t b) { return vaddq_s16(a, b); }
  static int16x8_t times(int16x8_t a, int16_t p) { return vmulq_n_s16(a, p); }
};

struct Float32 : FloatTypes {
  using Register = float32x4_t;

  static float32x4_t load(const void* p) { return vld1q_f32(static_cast<const float*>(p)); }
  static void store(void* p, float32x4_t v) { vst1q_f32(static_cast<float*>(p), v); }
  static float32x4_t add(float32x4_t a, float32x4_t b) { return vaddq_f32(a, b); }
  static float32x4_t times(float32x4_t a, float p) { return vmulq_n_f32(a, p); }
};

// Addresses of entries: one addition with a shift. GCC would shift and add apart, and load
// registers one by one.
template <class Arithmetic, int N>
struct Entries : Lanes<Arithmetic, N> {
  [[gnu::always_inline]] static auto at(const char* table, size_t byte) {
    const char* p;
#if defined(__GNUC__)
    __asm__("add %0, %1, %2, lsl #3" : "=r"(p) : "r"(table), "r"(byte));
#else
    p = table + 8 * byte;
#endif
    return Lanes<Arithmetic, N>::entry(p);
  }
};

// From so many vectors on, a pass takes fewer instructions than as many single vectors, and fewer
// cycles on every model of a processor that docs/arm.md names.
struct Thresholds {
  size_t f32, f32_wide, i8, i8_wide;
};
constexpr size_t kGroupedI8 = 16;  // sums of groups are scaled for all lanes

template <class Packing>
void fill_f32(RankedKernelsF32& kernels, const Thresholds& from) {
  using Narrow = Entries<Float32, 2>;
  using Wide = Entries<Float32, 4>;
  kernels.small_batch = TableProduct<Narrow, Packing>::kernel(from.f32);
  kernels.medium_batch = TableProduct<Wide, Packing>::kernel(from.f32_wide);
  kernels.small_grouped_batch = GroupedFloatTableProduct<Narrow, Packing>::kernel(from.f32);
  kernels.large_grouped_batch = GroupedFloatTableProduct<Wide, Packing>::kernel(from.f32_wide);
}

template <class Packing>
void fill_i8(RankedKernelsI8& kernels, const Thresholds& from) {
  using Narrow = Entries<Int16, 2>;
  using Wide = Entries<Int16, 4>;
  kernels.medium_batch = TableProduct<Narrow, Packing>::kernel(from.i8);
  kernels.large_batch = TableProduct<Wide, Packing>::kernel(from.i8_wide);
  kernels.large_grouped_batch =
      GroupedTables<GroupedTableProduct<Narrow, Packing>,
                    GroupedTableProduct<Wide, Packing>>::kernel(kGroupedI8);
}

}  // namespace

void fill_tables_neon(KernelTable& table, Isa isa) {
  constexpr Thresholds kW16 = {5, 11, 11, 22}, kN4S1 = {6, 12, 12, 23};
  fill_f32<W16Ranks>(table.w16_f32, kW16);
  fill_f32<N4S1Ranks>(table.n4s1_f32, kN4S1);
  if (isa >= Isa::neon_dotprod) return;  // panels are faster
  fill_i8<W16Ranks>(table.w16_i8, kW16);
  fill_i8<N4S1Ranks>(table.n4s1_i8, kN4S1);
}

}  // namespace rsr
