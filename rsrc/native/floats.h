// Passes over float matrices. Most work on bit patterns: uint16_t for F16 and BF16, uint32_t for
// F32; those on values take float for F32 and uint16_t for BF16.
#pragma once
#include <cstddef>
#include <cstdint>

namespace rsr {

// A matrix with contiguous rows; the stride is in elements.
template <class T>
struct Rows {
  const T* data;
  size_t rows, columns;
  ptrdiff_t stride;
  const T* operator[](size_t r) const { return data + ptrdiff_t(r) * stride; }
};

// What `scan` found.
struct Scan {
  size_t mixed;  // the first row with several nonzero magnitudes; a.rows if there is none
  bool negative, zero, positive, negative_zero;  // signs in the rows before `mixed`; zero: +0 or -0
};

// largest: (rows,), receives the bits of the largest magnitude of each row up to `mixed`,
// inclusive.
template <class Bits>
Scan scan(const Rows<Bits>& a, Bits* largest);

// Digits from sign and zero alone. The alphabet is {-s, 0, s} (base 3), {-s, s} (base 2, lowest -1)
// or {0, s} (base 2, lowest 0). out: (rows, columns), contiguous.
template <class Bits>
void sign_digits(const Rows<Bits>& a, int base, int lowest, uint8_t* out);

// Writes one bit per zero, set for -0.0, the first into bit 0 of byte 0. Returns the number of
// zeros. out: count / 8 + 8 bytes; those after the last bit are undefined.
template <class Bits>
size_t negative_zeros(const Bits* a, size_t count, uint8_t* out);

// The sum of |a[i]|, accumulated in float64.
template <class T>
double sum_of_magnitudes(const T* a, size_t count);

// Digits clip(round_half_even(value * s), -1, 1) + 1. out: (rows, columns), contiguous.
template <class T>
void rounded_digits(const Rows<T>& a, float s, uint8_t* out);

// Joins each cell of `height` x `width` entries into its one nonzero value, 0 if there is none; the
// last cells may be smaller. Returns false if a cell holds two different nonzero values; out is
// then undefined. out: (ceil(rows / height), ceil(columns / width)), zeros on entry.
bool join(const Rows<float>& a, size_t height, size_t width, float* out);

}  // namespace rsr
