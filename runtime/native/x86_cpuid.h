// CPUID of x86 processors.
#pragma once
#include <cstdint>

#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif

namespace rsr {

struct CpuidRegisters {
  uint32_t eax, ebx, ecx, edx;
};

inline CpuidRegisters cpuid(uint32_t leaf) {
#if defined(_MSC_VER)
  int r[4];
  __cpuid(r, 0);
  if (leaf > static_cast<uint32_t>(r[0])) return {};  // it would answer as the last leaf
  __cpuidex(r, static_cast<int>(leaf), 0);
  return {uint32_t(r[0]), uint32_t(r[1]), uint32_t(r[2]), uint32_t(r[3])};
#else
  CpuidRegisters r{};
  __get_cpuid_count(leaf, 0, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
#endif
}

}  // namespace rsr
