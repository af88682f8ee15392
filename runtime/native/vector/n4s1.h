// How the kernels of packing n4s1 walk through a group of columns. Internal linkage: each file that
// includes this compiles its own (table.h).
#pragma once
#include <type_traits>

#include "table.h"

namespace rsr {
namespace {

// What is added in int16 at once: whole units of a group, at most as many as an int16 sum takes,
// and its short unit if there are fewer.
struct UnitRun {
  size_t units, short_blocks;

  UnitRun(size_t blocks, size_t most)
      : units(min(blocks / N4S1::kBlocks, most)),
        short_blocks(units < most ? blocks % N4S1::kBlocks : 0) {}
  size_t blocks() const { return units * N4S1::kBlocks + short_blocks; }
};

// Calls body with a number from 1 to 7, as a constant: the blocks of a short unit.
template <class Body>
inline void with_blocks(size_t n, const Body& body) {
  switch (n) {
    case 1:
      return body(std::integral_constant<int, 1>());
    case 2:
      return body(std::integral_constant<int, 2>());
    case 3:
      return body(std::integral_constant<int, 3>());
    case 4:
      return body(std::integral_constant<int, 4>());
    case 5:
      return body(std::integral_constant<int, 5>());
    case 6:
      return body(std::integral_constant<int, 6>());
    case 7:
      return body(std::integral_constant<int, 7>());
  }
}

}  // namespace
}  // namespace rsr
