// Passes over float matrices, most over their bits: uint16_t for F16 and BF16, uint32_t for F32.
#pragma once
#include <cstddef>
#include <cstdint>

namespace rsr {

// A matrix whose rows are contiguous; the stride in elements.
template <class T>
struct Rows {
  const T* data;
  size_t rows, columns;
  ptrdiff_t stride;
  const T* operator[](size_t r) const { return data + ptrdiff_t(r) * stride; }
};

// What occurs in the rows before `several`, the first row with several magnitudes beside zero
// (all rows, if there is none). `zero` is of either sign.
struct Found {
  size_t several;
  bool negative, zero, positive, negative_zero;
};

// largest: the magnitude bits of the largest entry of each row, up to and including row `several`.
template <class Bits>
Found scan(const Rows<Bits>& a, Bits* largest);

// Digits of the alphabet {-s, 0, s} (base 3), {-s, s} (base 2, lowest -1) or {0, s} (base 2, lowest
// 0), from sign and zero alone. out: (rows, columns).
template <class Bits>
void sign_digits(const Rows<Bits>& a, int base, int lowest, uint8_t* out);

// One bit for each zero, set for -0.0, the first in bit 0 of byte 0; returns the number of zeros.
// out: count / 8 + 8 bytes, whose tail is of no use.
template <class Bits>
size_t negative_zeros(const Bits* a, size_t count, uint8_t* out);

// Of values: float for F32, uint16_t for BF16.
template <class T>
double sum_of_magnitudes(const T* a, size_t count);

// clip(round_half_even(value * s), -1, 1) + 1. out: (rows, columns).
template <class T>
void rounded_digits(const Rows<T>& a, float s, uint8_t* out);

// Joins cells of `height` rows and `width` columns into one entry each: the one that is not zero.
// False where two such entries of a cell differ. out: one entry for each cell, zeros before.
bool join(const Rows<float>& a, size_t height, size_t width, float* out);

}  // namespace rsr
