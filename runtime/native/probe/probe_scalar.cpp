// The bandwidth probe in plain C++.
#include "table.h"

namespace rsr {
namespace {

uint64_t plain_read(const void* data, size_t bytes) {
  const unsigned char* p = static_cast<const unsigned char*>(data);
  uint64_t sum = 0;
  for (size_t i = 0; i < bytes; i++) sum += p[i];
  return sum;
}

}  // namespace

void fill_probe_scalar(KernelTable& table) { table.plain_read = plain_read; }

}  // namespace rsr
