// Packing w16 in plain C++: the fallback on every processor, and the reference of the other files.
#include "vector/w16_plain.h"

namespace rsr {

void fill_w16_scalar(KernelTable& table) {
  table.w16_i8.vector = {sizeof(int16_t) * kPatterns, 0,
                         plain::build_tables<int8_t, int16_t, int16_t>,
                         plain::lookup<int16_t, int32_t>, plain::lookup_grouped<int16_t, int32_t>};
  table.w16_f32.vector = {sizeof(float) * kPatterns, 0, plain::build_tables<float, float, float>,
                          plain::lookup<float, float>, plain::lookup_grouped<float, float>};
}

}  // namespace rsr
