#include "processor.h"

#include <cstring>

#include "table.h"

#if defined(RSR_X86)
#include "x86_cpuid.h"
#endif

namespace rsr {
namespace {

struct Family {
  const char* vendor;
  unsigned first, last;  // families
};

struct Row {
  Family family;
  TuningRow tuning;
};

// Sources: docs/lab-notes.md, "Constants by processor".
const std::vector<Row>& table() {
  static const std::vector<Row> rows = {
      // Zen 3 and 4; Zen 3 is assumed to be like Zen 4. Shifts share a port with vpermw. Tables in
      // registers are faster from cache, but leave DRAM idle for longer. A 512-bit dot product of
      // 64 inputs takes a cycle, as does a lookup of 32 blocks; so does a load of a table in L1,
      // which has 32 KiB.
      {{"AuthenticAMD", 0x19, 0x19},
       {{{8192, 0}, {12288, 1024}, false, false, true},
        "zen3-4",
        {
            {"avx2", "n4s1_f32.large_grouped_batch", kNever},
            {"avx2", "w16_f32.large_grouped_batch", kNever},
            {"avx512", "w16_i8.small_grouped_batch", 2},
            {"avx512", "w16_i8.large_grouped_batch", kNever},
            {"avx512", "w16_f32.small_batch", kNever},
            {"avx512", "w16_f32.medium_batch", kNever},
            {"avx512", "w16_f32.small_grouped_batch", kNever},
            {"avx512", "w16_f32.large_grouped_batch", kNever},
            {"avx512vnni", "w16_i8.medium_batch", 8, 2},
            {"avx512vnni", "w16_i8.small_grouped_batch", 2},
            {"avx512vnni", "w16_i8.large_grouped_batch", 8, 2},
            {"avx512vnni", "w16_f32.small_batch", kNever},
            {"avx512vnni", "w16_f32.medium_batch", kNever},
            {"avx512vnni", "w16_f32.small_grouped_batch", kNever},
            {"avx512vnni", "w16_f32.large_grouped_batch", kNever},
        }}},
      // Sapphire Rapids class. Shifts run on port 0, lookups on port 5.
      {{"GenuineIntel", 6, 19}, {{{4096, 1024}, {4096, 1024}, true, true, false}, "intel", {}}},
      {{"", 0, ~0u}, {{{8192, 0}, {12288, 1024}, false, false, false}, "default", {}}},
  };
  return rows;
}

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

const std::vector<TuningRow>& tuning_rows() {
  static const std::vector<TuningRow> rows = [] {
    std::vector<TuningRow> all;
    for (const Row& row : table()) all.push_back(row.tuning);
    return all;
  }();
  return rows;
}

const TuningRow& tuning_row(const Processor& processor) {
  const auto takes = [&](const Family& f) {
    return processor.vendor == f.vendor && f.first <= processor.family &&
           processor.family <= f.last;
  };
  for (size_t i = 0; i + 1 < table().size(); i++)
    if (takes(table()[i].family)) return table()[i].tuning;
  return table().back().tuning;
}

}  // namespace rsr
