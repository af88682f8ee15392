// Which instruction sets there are, which this processor has, and the table in use.
#pragma once
#include <string>
#include <vector>

#include "table.h"

namespace rsr {

std::vector<std::string> compiled_isas();   // best first
std::vector<std::string> supported_isas();  // best first; the last is "scalar"

// The table in use: the best supported one until use_isa() chooses another.
const KernelTable& kernels();

// Throws std::invalid_argument, in a sentence, for an unknown or unsupported name.
void use_isa(const std::string& name);

}  // namespace rsr
