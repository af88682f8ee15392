// Transposition of int8 and of 32-bit numbers, in blocks that fit a few registers: SSE2, which
// every x86-64 processor has, or plain C++.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <emmintrin.h>
#define RSR_SSE2
#endif

namespace rsr {
namespace {

// to[j * to_stride + i] = from[i * from_stride + j] for i < rows, j < columns.
template <class T>
inline void transpose_plainly(const T* from, size_t from_stride, size_t rows, size_t columns, T* to,
                              size_t to_stride) {
  for (size_t j = 0; j < columns; j++)
    for (size_t i = 0; i < rows; i++) to[j * to_stride + i] = from[i * from_stride + j];
}

// The same for a block of kBlock x kBlock.
template <class T>
struct Transposition {
  static constexpr size_t kBlock = 16 / sizeof(T);

#if defined(RSR_SSE2)
  static void block(const T* from, size_t from_stride, T* to, size_t to_stride) {
    __m128i v[kBlock], w[kBlock];
    for (size_t i = 0; i < kBlock; i++)
      v[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * from_stride));
    // Each pass interleaves row i with row i + kBlock / 2; after log2(kBlock) passes, columns are
    // rows.
    for (size_t pass = 1; pass < kBlock; pass *= 2) {
      for (size_t i = 0; i < kBlock / 2; i++) {
        w[2 * i] = low(v[i], v[i + kBlock / 2]);
        w[2 * i + 1] = high(v[i], v[i + kBlock / 2]);
      }
      std::copy_n(w, kBlock, v);
    }
    for (size_t j = 0; j < kBlock; j++)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + j * to_stride), v[j]);
  }

 private:
  static __m128i low(__m128i a, __m128i b) {
    return sizeof(T) == 1 ? _mm_unpacklo_epi8(a, b) : _mm_unpacklo_epi32(a, b);
  }
  static __m128i high(__m128i a, __m128i b) {
    return sizeof(T) == 1 ? _mm_unpackhi_epi8(a, b) : _mm_unpackhi_epi32(a, b);
  }
#else
  static void block(const T* from, size_t from_stride, T* to, size_t to_stride) {
    transpose_plainly(from, from_stride, kBlock, kBlock, to, to_stride);
  }
#endif
};

// As transpose_plainly, in tiles: neighboring blocks write the same lines, and a tile's rows of
// `from` stay in L1 until all their columns are read.
template <class T>
inline void transpose(const T* from, size_t from_stride, size_t rows, size_t columns, T* to,
                      size_t to_stride) {
  static_assert(sizeof(T) == 1 || sizeof(T) == 4);
  constexpr size_t kBlock = Transposition<T>::kBlock, kTile = sizeof(T) == 1 ? 64 : 128;
  const size_t whole = columns / kBlock * kBlock;
  for (size_t top = 0; top < rows; top += kTile) {
    const size_t bottom = std::min(rows, top + kTile), full = bottom - (bottom - top) % kBlock;
    for (size_t j = 0; j < whole; j += kBlock) {
      for (size_t i = top; i < full; i += kBlock)
        Transposition<T>::block(from + i * from_stride + j, from_stride, to + j * to_stride + i,
                                to_stride);
      transpose_plainly(from + full * from_stride + j, from_stride, bottom - full, kBlock,
                        to + j * to_stride + full, to_stride);
    }
    transpose_plainly(from + top * from_stride + whole, from_stride, bottom - top, columns - whole,
                      to + whole * to_stride + top, to_stride);
  }
}

}  // namespace
}  // namespace rsr
