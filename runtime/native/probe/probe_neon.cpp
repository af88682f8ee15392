// The bandwidth probe on NEON. Four sums, so that no addition waits for the one before.
#include <arm_neon.h>

#include "table.h"

namespace rsr {
namespace {

uint64_t plain_read(const void* data, size_t bytes) {
  const uint8_t* p = static_cast<const uint8_t*>(data);
  uint64x2_t s[4];
  for (auto& v : s) v = vdupq_n_u64(0);
  size_t i = 0;
  for (; i + 64 <= bytes; i += 64)
    for (int j = 0; j < 4; j++)
      s[j] = vaddq_u64(s[j], vreinterpretq_u64_u8(vld1q_u8(p + i + 16 * j)));
  uint64_t sum = vaddvq_u64(vaddq_u64(vaddq_u64(s[0], s[1]), vaddq_u64(s[2], s[3])));
  for (; i < bytes; i++) sum += p[i];
  return sum;
}

}  // namespace

void fill_probe_neon(KernelTable& table) { table.plain_read = plain_read; }

}  // namespace rsr
