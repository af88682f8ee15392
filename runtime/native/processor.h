// The table of constants by processor. Each row was measured; benchmarks/tune.py prints one.
#pragma once
#include <string>
#include <vector>

#include "packing.h"
#include "tuning.h"

namespace rsr {

// A processor as CPUID names it; vendor is empty on others than x86.
struct Processor {
  std::string vendor;  // "GenuineIntel", ...
  unsigned family = 0, model = 0;
};
Processor this_processor();

// A batch kernel runs from so many vectors on, instead of its own number, and for column blocks of
// at most max_k inputs: the time of lookups grows with blocks, that of dot products with
// inputs.
struct Threshold {
  std::string isa;   // "amx", ...
  std::string slot;  // of the kernel table: "w16_i8.large_batch", ...
  size_t min_vectors;
  int max_k = kMaxK;
};

struct TuningRow : Tuning {
  std::string name;
  std::vector<Threshold> thresholds;
};

const std::vector<TuningRow>& tuning_rows();  // the last, "default", is for every other processor
const TuningRow& tuning_row(const Processor& processor);

}  // namespace rsr
