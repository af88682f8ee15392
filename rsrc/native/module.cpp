// The Python module rsrc._native: checks shapes, releases the GIL, calls encode.h and floats.h.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <tuple>

#include "encode.h"
#include "floats.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using DigitArray = nb::ndarray<const uint8_t, nb::ndim<2>, nb::device::cpu>;
template <class T, int N>
using Output = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

rsr::Digits view(const DigitArray& a) {
  return {a.data(), a.shape(0), a.shape(1), a.stride(0), a.stride(1)};
}

rsr::Alphabet alphabet(int base, int k, int pad, size_t max_patterns) {
  require(2 <= base && base <= 5 && 1 <= k && k <= 16 && 0 <= pad && pad < base,
          "base must be 2 to 5, k from 1 to 16, pad a digit");
  const rsr::Alphabet result{base, k, pad};
  require(result.patterns() <= max_patterns, "too many patterns");
  return result;
}

// Runs an encoder without the GIL; raises `error` if it returns false.
template <class Encode>
void encode_without_gil(const Encode& encode, const char* error = "a digit is not below the base") {
  bool valid;
  {
    nb::gil_scoped_release release;
    valid = encode();
  }
  require(valid, error);
}

using Patterns = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

rsr::ListedRanks ranks_of(const Patterns& listed, int base, int k) {
  require(listed.shape(0) <= size_t{rsr::kPatterns} && listed.shape(1) == static_cast<size_t>(k),
          "listed patterns must be (n, k), n at most 32");
  rsr::ListedRanks ranks;
  std::fill(std::begin(ranks.of), std::end(ranks.of), rsr::kNotListed);
  for (size_t p = 0; p < listed.shape(0); p++) {
    int number = 0;
    for (int d = 0; d < k; d++) {
      require(listed(p, d) < base, "a digit of a pattern is not below the base");
      number = number * base + listed(p, d);
    }
    ranks.of[number] = static_cast<uint8_t>(p);
  }
  return ranks;
}

void pack_w16(const DigitArray& digits, int base, int k, int pad, const Output<uint16_t, 1>& out,
              const std::optional<Patterns>& listed) {
  const rsr::Digits a = view(digits);
  rsr::Alphabet letters =
      alphabet(base, k, pad, listed ? rsr::kMaxPatterns : size_t{rsr::kPatterns});
  rsr::ListedRanks ranks;
  if (listed) {
    ranks = ranks_of(*listed, base, k);
    letters.listed = &ranks;
  }
  require(out.shape(0) == rsr::w16_words(a, k) * rsr::padded_rows(a.rows),
          "out does not have the size of the packing");
  encode_without_gil([&] { return rsr::pack_w16(a, letters, out.data()); },
                     listed ? "a pattern is not listed" : "a digit is not below the base");
}

void mark_patterns(const DigitArray& digits, int base, int k, size_t stride,
                   const Output<uint8_t, 1>& seen) {
  const rsr::Digits a = view(digits);
  alphabet(base, k, 0, rsr::kMaxPatterns);
  require(0 < stride && stride <= a.columns && a.columns % (k * stride) == 0,
          "columns must be a multiple of k * stride");
  require(seen.shape(0) == 256, "seen must have 256 entries");
  encode_without_gil([&] { return rsr::mark_patterns(a, base, k, stride, seen.data()); });
}

void pack_n4s1(const DigitArray& digits, const Output<uint8_t, 1>& out, size_t group_blocks) {
  const rsr::Digits a = view(digits);
  require(out.shape(0) == rsr::n4s1_bytes(a, group_blocks) * rsr::padded_rows(a.rows),
          "out does not have the size of the packing");
  encode_without_gil([&] { return rsr::pack_n4s1(a, group_blocks, out.data()); });
}

template <class Index>
void sort_blocks(const DigitArray& digits, int base, int k, int pad,
                 const Output<Index, 2>& permutation, const Output<Index, 2>& segments) {
  const rsr::Digits a = view(digits);
  const rsr::Alphabet letters = alphabet(base, k, pad, 65536);
  const size_t count = rsr::blocks(a, k);
  require(permutation.shape(0) == count && permutation.shape(1) == a.rows &&
              segments.shape(0) == count && segments.shape(1) == letters.patterns() + 1,
          "permutation must be (blocks, rows), segments (blocks, base^k + 1)");
  require(a.rows <= static_cast<Index>(-1), "too many rows for the index type");
  encode_without_gil(
      [&] { return rsr::sort_blocks(a, letters, permutation.data(), segments.data()); });
}

template <class T>
using Entries = nb::ndarray<const T, nb::ndim<2>, nb::device::cpu>;
template <class T>
using Flat = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class T>
rsr::Rows<T> rows(const Entries<T>& a) {
  require(a.stride(1) == 1 || a.shape(1) <= 1 || a.shape(0) == 0, "rows must be contiguous");
  return {a.data(), a.shape(0), a.shape(1), a.stride(0)};
}

template <class T>
void require_shape(const Entries<T>& a, const Output<uint8_t, 2>& out) {
  require(out.shape(0) == a.shape(0) && out.shape(1) == a.shape(1),
          "out must have the shape of the matrix");
}

// mixed, negative, zero, positive, negative_zero
using Scanned = std::tuple<size_t, bool, bool, bool, bool>;

template <class Bits>
Scanned scan(const Entries<Bits>& bits, const Output<Bits, 1>& largest) {
  const rsr::Rows<Bits> a = rows(bits);
  require(largest.shape(0) == a.rows, "largest must have one entry per row");
  rsr::Scan found;
  {
    nb::gil_scoped_release release;
    found = rsr::scan(a, largest.data());
  }
  return {found.mixed, found.negative, found.zero, found.positive, found.negative_zero};
}

template <class Bits>
void sign_digits(const Entries<Bits>& bits, int base, int lowest, const Output<uint8_t, 2>& out) {
  const rsr::Rows<Bits> a = rows(bits);
  require_shape(bits, out);
  nb::gil_scoped_release release;
  rsr::sign_digits(a, base, lowest, out.data());
}

template <class Bits>
size_t negative_zeros(const Flat<Bits>& bits, const Output<uint8_t, 1>& out) {
  require(out.shape(0) == bits.shape(0) / 8 + 8, "out must have count / 8 + 8 bytes");
  nb::gil_scoped_release release;
  return rsr::negative_zeros(bits.data(), bits.shape(0), out.data());
}

template <class T>
double sum_of_magnitudes(const Flat<T>& values) {
  nb::gil_scoped_release release;
  return rsr::sum_of_magnitudes(values.data(), values.shape(0));
}

template <class T>
void rounded_digits(const Entries<T>& values, float s, const Output<uint8_t, 2>& out) {
  const rsr::Rows<T> a = rows(values);
  require_shape(values, out);
  nb::gil_scoped_release release;
  rsr::rounded_digits(a, s, out.data());
}

bool join(const Entries<float>& values, size_t height, size_t width, const Output<float, 2>& out) {
  const rsr::Rows<float> a = rows(values);
  require(height > 0 && width > 0, "height and width must be positive");
  require(out.shape(0) == a.rows / height + (a.rows % height != 0) &&
              out.shape(1) == a.columns / width + (a.columns % width != 0),
          "out must have one entry per cell");
  nb::gil_scoped_release release;
  return rsr::join(a, height, width, out.data());
}

// Overloads repeat their docstring; the stub generator keeps one.
template <class Bits>
void define_bits(nb::module_& m) {
  m.def("scan", &scan<Bits>, "bits"_a.noconvert(), "largest"_a.noconvert(),
        R"(Find what occurs in a float matrix whose rows should have one nonzero magnitude each.

Args:
    bits: bit patterns, (rows, columns), rows contiguous; uint16 for F16 and BF16, uint32 for F32.
    largest: (rows,), receives the bits of the largest magnitude of each row up to row `mixed`.

Returns:
    (mixed, negative, zero, positive, negative_zero): the first row with several nonzero
    magnitudes, or the number of rows if there is none; and which signs occur in the rows before
    it, where `zero` is +0.0 or -0.0.

Raises:
    ValueError: rows are not contiguous, or `largest` has another length.)");
  m.def("sign_digits", &sign_digits<Bits>, "bits"_a.noconvert(), "base"_a, "lowest"_a,
        "out"_a.noconvert(),
        R"(Compute the digits of floats -s, 0, s from sign and zero alone.

Args:
    bits: bit patterns, (rows, columns), rows contiguous; uint16 for F16 and BF16, uint32 for F32.
    base: 3 for the alphabet {-s, 0, s}, 2 for {-s, s} or {0, s}.
    lowest: -1 or 0, the first digit's sign.
    out: (rows, columns), receives the digits.

Raises:
    ValueError: rows are not contiguous, or `out` has another shape.)");
  m.def("negative_zeros", &negative_zeros<Bits>, "bits"_a.noconvert(), "out"_a.noconvert(),
        R"(Write one bit per zero, set for -0.0, the first into bit 0 of byte 0.

Args:
    bits: bit patterns, (count,); uint16 for F16 and BF16, uint32 for F32.
    out: (count // 8 + 8,); the bytes after those of the last zero are undefined.

Returns:
    The number of zeros.

Raises:
    ValueError: `out` has another length.)");
}

template <class T>
void define_values(nb::module_& m) {
  m.def("sum_of_magnitudes", &sum_of_magnitudes<T>, "values"_a.noconvert(),
        R"(Return the sum of |values|, accumulated in float64.

Args:
    values: (count,), float32, or BF16 as uint16 bits.)");
  m.def("rounded_digits", &rounded_digits<T>, "values"_a.noconvert(), "s"_a, "out"_a.noconvert(),
        R"(Compute clip(round_half_even(values * s), -1, 1) + 1 in float32.

Args:
    values: (rows, columns), rows contiguous; float32, or BF16 as uint16 bits.
    s: multiplier, float32.
    out: (rows, columns), receives the digits.

Raises:
    ValueError: rows are not contiguous, or `out` has another shape.)");
}

template <class Index>
void define_sort_blocks(nb::module_& m) {
  m.def("sort_blocks", &sort_blocks<Index>, "digits"_a, "base"_a, "k"_a, "pad"_a,
        "permutation"_a.noconvert(), "segments"_a.noconvert(),
        R"(Sort the rows of each column block by their patterns, stably (encoding `permuted`).

Args:
    digits: (rows, columns) of digits below `base`, any strides.
    base: 2 to 5.
    k: columns of a column block; base^k is at most 65536.
    pad: the digit of the columns that the last block lacks.
    permutation: (blocks, rows), receives the rows in the order of their patterns.
    segments: (blocks, base^k + 1), receives the segment lists.

Raises:
    ValueError: a digit is not below the base, a shape does not fit, or there are more rows than
        the index type can number.)");
}

}  // namespace

NB_MODULE(_native, m) {
  m.def("pack_w16", &pack_w16, "digits"_a, "base"_a, "k"_a, "pad"_a, "out"_a.noconvert(),
        "listed"_a = nb::none(),
        R"(Encode packing w16 of encoding `ranked`: three ranks of 5 bits per word.

Args:
    digits: (rows, columns) of digits below `base`, any strides.
    base: 2 to 5.
    k: columns of a column block; base^k is at most 32, or 243 if patterns are listed.
    pad: the digit of padding rows and columns.
    out: (ceil(blocks / 3) * rows padded to a multiple of 32,), receives the words.
    listed: (n, k), n <= 32, the digits of the patterns that have a rank; None: all have one.

Raises:
    ValueError: a digit is not below the base, a pattern is not listed, or a size does not fit.)");
  m.def("mark_patterns", &mark_patterns, "digits"_a, "base"_a, "k"_a, "stride"_a,
        "seen"_a.noconvert(),
        R"(Set seen[p] to 1 for each pattern p that occurs: k digits, read as a number in base B.

Args:
    digits: (rows, columns) of digits below `base`, any strides.
    base: 2 to 5.
    k: columns of a column block; base^k is at most 243.
    stride: from one column of a block to its next; `columns` is a multiple of k * stride.
    seen: (256,).

Raises:
    ValueError: a digit is not below the base, or a size does not fit.)");
  m.def("pack_n4s1", &pack_n4s1, "digits"_a, "out"_a.noconvert(), "group_blocks"_a = 0,
        R"(Encode packing n4s1 of encoding `ranked`: base 3, k = 3, padding digit 1.

Args:
    digits: (rows, columns) of digits 0, 1, 2, any strides. Each group of columns is padded to whole
        column blocks.
    out: (bytes of a row * rows padded to a multiple of 32,), receives the bytes. Without groups, a
        row has 5 * ceil(columns / 24) bytes.
    group_blocks: column blocks of a group, which has units of its own; 0: there are no groups.

Raises:
    ValueError: a digit is above 2, or `out` has another length.)");
  define_sort_blocks<uint16_t>(m);
  define_sort_blocks<uint32_t>(m);
  define_bits<uint16_t>(m);    // F16, BF16
  define_bits<uint32_t>(m);    // F32
  define_values<uint16_t>(m);  // BF16
  define_values<float>(m);
  m.def("join", &join, "values"_a.noconvert(), "height"_a, "width"_a, "out"_a.noconvert(),
        R"(Join each cell of height x width entries into its one nonzero value, 0 if there is none.

Args:
    values: (rows, columns), rows contiguous.
    height: rows of a cell; the last cell may have fewer.
    width: columns of a cell; the last cell may have fewer.
    out: (ceil(rows / height), ceil(columns / width)), zeros on entry.

Returns:
    False if a cell holds two different nonzero values; `out` is then undefined.

Raises:
    ValueError: rows are not contiguous, a size is 0, or `out` has another shape.)");
}
