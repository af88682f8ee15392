// Constants of kernels that depend on the processor rather than on its instruction set. processor.h
// has the table; kernels include only this.
#pragma once
#include <cstddef>

namespace rsr {

// How far ahead an index is prefetched, in bytes; 0 prefetches nothing new. A stream from memory
// goes into L2, which has more reads in flight than L1 has fill buffers, then from L2 into L1.
struct PrefetchDistances {
  size_t l2, l1;
};

struct Tuning {
  PrefetchDistances avx2, avx512;
  // Tables of int8 sums, packing w16, AVX-512. In registers: a table is loaded once for several row
  // units; otherwise it is a memory operand of each lookup.
  bool tables_in_registers;
  // Ranks are moved by shift instructions (packing w16, AVX-512); otherwise by multiplications, for
  // processors whose shifts share a port with lookups.
  bool shifts;
  // One vector times a large dense matrix: row after row, not several rows side by side.
  bool dense_in_order;
};

// Those in use. They never change while kernels run.
extern Tuning tuning;

}  // namespace rsr
