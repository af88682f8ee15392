// Packing n4s1 in plain C++: the fallback on every processor, and the reference of the other files.
#include "vector/n4s1_plain.h"

namespace rsr {

void fill_n4s1_scalar(KernelTable& table) {
  table.n4s1_i8.vector = {kPatterns * sizeof(int16_t), 0,
                          plain::build_tables<int8_t, int16_t, int16_t>,
                          plain::lookup<int16_t, int32_t>, plain::lookup_grouped<int16_t, int32_t>};
  table.n4s1_f32.vector = {kPatterns * sizeof(float), 0, plain::build_tables<float, float, float>,
                           plain::lookup<float, float>, plain::lookup_grouped<float, float>};
}

}  // namespace rsr
