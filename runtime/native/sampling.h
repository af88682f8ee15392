// Draws one of many weighted entries, as the tokens of a vocabulary.
#pragma once
#include <cstddef>
#include <optional>

namespace rsr {

// The entries whose weight is above `smallest`, and the first `equal` of those equal to it.
struct Nucleus {
  double smallest;
  size_t equal;
};

// The fewest entries with the largest weights whose sum is at least `enough`; of equal weights the
// first ones.
//
// It is the set that sorting all weights and adding them up in that order gives. Sums are rounded
// in another order here, so there is no result where rounding could decide, nor where the set
// reaches far below the largest weight; sort then.
//
// weights: (count), 0 to 1, the largest is 1.
std::optional<Nucleus> nucleus(const double* weights, size_t count, double enough);

// The first entry of a nucleus at which the sum of its weights, in the order of the entries, is
// above `random` times the whole sum, or is the whole sum.
//
// weights: (count), at least one in the nucleus positive. random: 0 to below 1.
size_t draw(const double* weights, size_t count, Nucleus nucleus, double random);

}  // namespace rsr
