// Constants that depend on the processor rather than on its instruction set: a table of processor
// families, each row measured (benchmarks/tune.py prints one).
#pragma once
#include <cstddef>
#include <string>
#include <vector>

namespace rsr {

// How far ahead an index is prefetched, in bytes; 0 prefetches nothing new. A stream from memory
// goes into L2, which has more reads in flight than L1 has fill buffers, then from L2 into L1.
struct PrefetchDistances {
  size_t l2, l1;
};

struct Tuning {
  const char* name;
  PrefetchDistances avx2, avx512;
  // Lookups of int8 sums, packing w16, AVX-512. In registers: a table is loaded once for several
  // row units; otherwise it is a memory operand of each lookup.
  bool tables_in_registers;
  // By shift instructions; otherwise by multiplications, for processors whose shifts share a port
  // with lookups (packing w16, AVX-512).
  bool shifts;
  // vpdpbusd is slower than lookups: avx512vnni runs on request only.
  bool vnni_is_slower;
  // One vector times a large dense matrix: row after row, not several rows side by side.
  bool dense_in_order;
};

// A processor as CPUID names it; vendor is empty on others than x86.
struct Processor {
  std::string vendor;  // "GenuineIntel", ...
  unsigned family = 0, model = 0;
};
Processor this_processor();

// The table. The last row, "default", takes every processor.
const std::vector<Tuning>& tuning_rows();
const Tuning& tuning_row(const Processor& processor);

// The row in use: that of this processor until use_tuning() (dispatch.h) changes it. Kernels read
// it; it never changes while they run.
extern Tuning tuning;

}  // namespace rsr
