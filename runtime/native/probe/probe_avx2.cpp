// The bandwidth probe on AVX2. Four sums, so that no addition waits for the one before.
#include <immintrin.h>

#include "table.h"

namespace rsr {
namespace {

uint64_t plain_read(const void* data, size_t bytes) {
  const char* p = static_cast<const char*>(data);
  __m256i s[4];
  for (auto& v : s) v = _mm256_setzero_si256();
  size_t i = 0;
  for (; i + 128 <= bytes; i += 128)
    for (int j = 0; j < 4; j++)
      s[j] = _mm256_add_epi64(s[j],
                              _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i + 32 * j)));
  alignas(32) uint64_t part[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(part),
                     _mm256_add_epi64(_mm256_add_epi64(s[0], s[1]), _mm256_add_epi64(s[2], s[3])));
  uint64_t sum = part[0] + part[1] + part[2] + part[3];
  for (; i < bytes; i++) sum += static_cast<unsigned char>(p[i]);
  return sum;
}

}  // namespace

void fill_probe_avx2(KernelTable& table) { table.plain_read = plain_read; }

}  // namespace rsr
