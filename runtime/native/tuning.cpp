#include "tuning.h"

#include <cstring>

#if defined(RSR_X86)
#include "x86_cpuid.h"
#endif

namespace rsr {
namespace {

struct Family {
  const char* vendor;
  unsigned first, last;  // families
  Tuning tuning;
};

// Sources: docs/lab-notes.md, "Constants by processor".
const Family kFamilies[] = {
    // Zen 3 and 4 (Zen 3 is assumed to be like Zen 4): shifts share a port with vpermw; tables in
    // registers are faster from cache, but leave DRAM idle for longer.
    {"AuthenticAMD", 0x19, 0x19, {"zen3-4", {8192, 0}, {12288, 1024}, false, false, true, true}},
    // Sapphire Rapids class: shifts run on port 0, lookups on port 5; a memory operand costs a load
    // that the words need.
    {"GenuineIntel", 6, 19, {"intel", {4096, 1024}, {4096, 1024}, true, true, false, false}},
    {"", 0, ~0u, {"default", {8192, 0}, {12288, 1024}, false, false, false, false}},
};

}  // namespace

Processor this_processor() {
  Processor found;
#if defined(RSR_X86)
  const CpuidRegisters vendor = cpuid(0), version = cpuid(1);
  char name[12];
  std::memcpy(name, &vendor.ebx, 4);
  std::memcpy(name + 4, &vendor.edx, 4);
  std::memcpy(name + 8, &vendor.ecx, 4);
  found.vendor.assign(name, sizeof name);
  found.family = version.eax >> 8 & 15;
  found.model = version.eax >> 4 & 15;
  if (found.family == 15 || found.family == 6) found.model += (version.eax >> 16 & 15) << 4;
  if (found.family == 15) found.family += version.eax >> 20 & 255;
#endif
  return found;
}

const std::vector<Tuning>& tuning_rows() {
  static const std::vector<Tuning> rows = [] {
    std::vector<Tuning> all;
    for (const Family& family : kFamilies) all.push_back(family.tuning);
    return all;
  }();
  return rows;
}

const Tuning& tuning_row(const Processor& processor) {
  const Family* family = kFamilies;
  const auto is_of = [&](const Family& f) {
    return (*f.vendor == 0 || processor.vendor == f.vendor) && f.first <= processor.family &&
           processor.family <= f.last;
  };
  while (!is_of(*family)) family++;
  return family->tuning;
}

Tuning tuning = tuning_row(this_processor());

}  // namespace rsr
