// The one table through which every product reaches its kernels.
//
// A table is filled with plain C++ first; a wider instruction set then overrides what it does
// better (dispatch.cpp). An instruction set's source file exports its fill function and nothing
// else, and includes no header with inline functions: code compiled for AVX-512 must never be
// picked by the linker for a machine without it.
#pragma once
#include <cstddef>
#include <cstdint>

namespace rsr {

constexpr int kPatterns = 32;      // entries of a lookup table; ranks have five bits
constexpr int kStripRows = 128;    // rows of a full strip; the last has 32, 64, 96 or 128
constexpr int kRanksPerWord = 3;   // column blocks that share a 16-bit word
constexpr int kTableBytesI8 = 64;  // per column block; the layout inside is the kernel's own
constexpr int kTableBytesF32 = 128;
constexpr size_t kBatch = 16;  // vectors multiplied at once: a cache line of int32 per row
constexpr size_t kLanes = 4;   // of the running sums over a permutation

// Steps that involve the permutation, for its two index types (u16, u32), in int32 modulo 2^32:
// the caller sees to it that what is asked for fits (permuted.cpp).
// sigma: rows entries below rows; L: patterns + 1 entries rising from 0 to rows.
template <class Index>
struct PermutedKernels {
  // Reduce, step 1 (paper, Algorithm 2): u[s] = sum of v[sigma[i]], i in [L[s], L[s+1]).
  // scratch: kLanes + rows entries, the first kLanes of them zero.
  void (*segment_sums)(const int32_t* v, const Index* sigma, const Index* L, size_t patterns,
                       int32_t* scratch, int32_t* u);
  // The same for kBatch vectors side by side: v (rows, kBatch), u (patterns, kBatch).
  void (*segment_sums_batch)(const int32_t* v, const Index* sigma, const Index* L, size_t patterns,
                             int32_t* u);
  // Expand, step 2: y[sigma[i]] += t[s], i in [L[s], L[s+1]).
  // scratch: rows + 1 entries, all but the last zero before and after.
  void (*segment_adds)(const int32_t* t, const Index* sigma, const Index* L, size_t patterns,
                       int32_t* scratch, int32_t* y);
};
struct KernelTable {
  const char* isa;

  // Tables: for each of `blocks` column blocks the sums of its k inputs under all patterns,
  // sum of patterns[d * 32 + p] * x[block * k + d] over d. x has blocks * k entries (zero-padded).
  // Multiplying by 0 is done, not skipped: NaN and infinity in x spread as in a dense product.
  void (*grow_i8)(const int8_t* x, const int16_t* patterns, int k, size_t blocks, void* tables);
  void (*grow_f32)(const float* x, const float* patterns, int k, size_t blocks, void* tables);

  // One strip of packing w16: y[r] = sum over word columns g and i < 3 of
  // tables[3 g + i][rank], rank = bits 5i .. 5i+4 of words[g * rows + r].
  // rows: 32, 64, 96 or 128. tables: 3 * columns of them.
  // i8: a table entry is at most 128 k; every `flush` word columns the int16 sums are widened,
  // so 3 * flush * 128 * k must not exceed 32767 (flush_columns below).
  void (*lookup_i8)(const uint16_t* words, int rows, size_t columns, const void* tables,
                    size_t flush, int32_t* y);
  void (*lookup_f32)(const uint16_t* words, int rows, size_t columns, const void* tables, float* y);

  // RSR's products with Bin_k (k, patterns) of a permuted index: y = bin u, t = x bin.
  void (*multiply_bin)(const int32_t* bin, int k, size_t patterns, const int32_t* u, int32_t* y);
  void (*multiply_bin_transposed)(const int32_t* bin, int k, size_t patterns, const int32_t* x,
                                  int32_t* t);
  PermutedKernels<uint16_t> permuted16;
  PermutedKernels<uint32_t> permuted32;

  // Reads every byte once and returns a value that depends on all: the memory limit of a product.
  uint64_t (*plain_read)(const void* data, size_t bytes);
};

void fill_scalar(KernelTable& table);
void fill_avx2(KernelTable& table);
void fill_avx512(KernelTable& table);
void fill_permuted_scalar(KernelTable& table);
void fill_permuted_avx2(KernelTable& table);

}  // namespace rsr
