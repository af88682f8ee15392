// Bindings of changes of an index in place.
#include "update.h"

#include <nanobind/stl/optional.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "bindings/program.h"
#include "packing.h"

using namespace nb::literals;

namespace {

using Rows = Array<const uint32_t, 1>;
using Weights = Array<const uint16_t, 1>;
using Digits = Array<const uint8_t, 1>;

rsr::Changes changes(const Rows& rows, const Rows& blocks, const Weights& weights,
                     const Digits& digits) {
  const size_t count = rows.shape(0);
  require(blocks.shape(0) == count && weights.shape(0) == count && digits.shape(0) == count,
          "rows, blocks, weights and digits must have one length");
  return {rows.data(), blocks.data(), weights.data(), digits.data(), count};
}

bool set_digits_w16(const Array<uint16_t, 1>& words, size_t word_columns, unsigned base,
                    const Rows& rows, const Rows& blocks, const Weights& weights,
                    const Digits& digits, const std::optional<Digits>& listed,
                    const std::optional<Array<int64_t, 1>>& occurrences) {
  require(word_columns > 0 && words.shape(0) % word_columns == 0, "words must be whole rows");
  const rsr::W16Index index{words.data(), word_columns, words.shape(0) / word_columns};
  rsr::Listed list{};
  if (listed) {
    require(occurrences && occurrences->shape(0) == listed->shape(0) &&
                listed->shape(0) <= size_t{rsr::kPatterns},
            "there must be up to 32 listed patterns, and occurrences of each");
    list = {listed->data(), occurrences->data(), listed->shape(0)};
  }
  const rsr::Changes all = changes(rows, blocks, weights, digits);
  bool done = false;
  without_gil([&] { done = rsr::set_digits(index, base, listed ? &list : nullptr, all); });
  return done;
}

void set_digits_n4s1(const Array<uint8_t, 1>& bytes, size_t row_bytes, const Rows& magnitudes,
                     const Rows& signs, const Digits& places, const Rows& rows, const Rows& blocks,
                     const Weights& weights, const Digits& digits) {
  require(row_bytes > 0 && bytes.shape(0) % row_bytes == 0, "bytes must be whole rows");
  require(signs.shape(0) == magnitudes.shape(0) && places.shape(0) == magnitudes.shape(0),
          "magnitudes, signs and places must have one length");
  const rsr::N4S1Index index{bytes.data(),      row_bytes,    bytes.shape(0) / row_bytes,
                             magnitudes.data(), signs.data(), places.data()};
  const rsr::Changes all = changes(rows, blocks, weights, digits);
  without_gil([&] { rsr::set_digits(index, 3, all); });
}

template <class Index>
void set_digits_permuted(const Array<Index, 2>& permutation, const Array<Index, 2>& segments,
                         unsigned base, const Rows& rows, const Rows& blocks,
                         const Weights& weights, const Digits& digits) {
  require(segments.shape(0) == permutation.shape(0) && segments.shape(1) > 1,
          "permutation and segments must have the same blocks");
  const rsr::SortedBlocks<Index> index{permutation.data(), segments.data(), permutation.shape(1),
                                       segments.shape(1) - 1};
  const rsr::Changes all = changes(rows, blocks, weights, digits);
  without_gil([&] { rsr::set_digits(index, base, all); });
}

template <class Index>
void bind_permuted(nb::module_& m, const char* doc) {
  m.def("set_digits_permuted", &set_digits_permuted<Index>, "permutation"_a.noconvert(),
        "segments"_a.noconvert(), "base"_a, "rows"_a, "blocks"_a, "weights"_a, "digits"_a, doc);
}

}  // namespace

void bind_updates(nb::module_& m) {
  m.def("set_digits_w16", &set_digits_w16, "words"_a.noconvert(), "word_columns"_a, "base"_a,
        "rows"_a, "blocks"_a, "weights"_a, "digits"_a, "listed"_a = nb::none(),
        "occurrences"_a.noconvert() = nb::none(),
        "Give weights of an index in packing w16 other digits; of one weight the last one wins.\n\n"
        "words: (padded rows * word_columns,), written. rows, blocks, weights, digits: (count,), "
        "each digit, its row and column block, and its weight base^0 .. base^(k - 1) in the number "
        "of a pattern. listed: numbers of the listed patterns by rank; all changes of one row and "
        "block must then follow one another. occurrences: of each listed pattern, written. Returns "
        "False, having changed nothing, if a pattern would not be listed. The caller has checked "
        "all values. Raises ValueError for sizes that do not match.");
  m.def("set_digits_n4s1", &set_digits_n4s1, "bytes"_a.noconvert(), "row_bytes"_a, "magnitudes"_a,
        "signs"_a, "places"_a, "rows"_a, "blocks"_a, "weights"_a, "digits"_a,
        "As set_digits_w16, in packing n4s1.\n\n"
        "bytes: (padded rows * row_bytes,), written. magnitudes, signs, places: (blocks of the "
        "matrix,), as n4s1_places of rsr_formats.packing returns them.");
  bind_permuted<uint16_t>(
      m,
      "As set_digits_w16, of a permuted index: sorts the rows of each block that changes again.\n\n"
      "permutation: (blocks, rows), written. segments: (blocks, base^k + 1), written. rows, "
      "blocks: of the indexed matrix; all changes of one block must follow one another.");
  bind_permuted<uint32_t>(m, "The same for uint32.");
}
