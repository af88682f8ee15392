// Instruction sets: those of this build, those of this processor, and the kernel table in use.
#pragma once
#include <string>
#include <vector>

#include "processor.h"
#include "table.h"

namespace rsr {

std::vector<std::string> compiled_isas();   // widest first
std::vector<std::string> supported_isas();  // widest first; the last is "scalar"

// The table in use: the widest supported one until use_isa() chooses another.
const KernelTable& kernels();

// Throws std::invalid_argument for an unknown or unsupported name.
void use_isa(const std::string& name);

// Those of the table in use: of each batch kernel that there is.
std::vector<Threshold> thresholds();

// Uses other constants. Only while no product runs: it is for measuring and for tests.
void use_tuning(const TuningRow& row);
const TuningRow& tuning_in_use();

}  // namespace rsr
