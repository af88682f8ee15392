// The bandwidth probe on AVX-512. Four sums, so that no addition waits for the one before.
#include <immintrin.h>

#include "table.h"

namespace rsr {
namespace {

uint64_t plain_read(const void* data, size_t bytes) {
  const char* p = static_cast<const char*>(data);
  __m512i s[4];
  for (auto& v : s) v = _mm512_setzero_si512();
  size_t i = 0;
  for (; i + 256 <= bytes; i += 256)
    for (int j = 0; j < 4; j++) s[j] = _mm512_add_epi64(s[j], _mm512_loadu_si512(p + i + 64 * j));
  uint64_t sum = _mm512_reduce_add_epi64(
      _mm512_add_epi64(_mm512_add_epi64(s[0], s[1]), _mm512_add_epi64(s[2], s[3])));
  for (; i < bytes; i++) sum += static_cast<unsigned char>(p[i]);
  return sum;
}

}  // namespace

void fill_probe_avx512(KernelTable& table) { table.plain_read = plain_read; }

}  // namespace rsr
