// The one table through which every product reaches its kernels.
//
// A table is filled with plain C++ first; a wider instruction set then overrides what it does
// better (dispatch.cpp). An instruction set's source file exports its fill function and nothing
// else; in headers too, everything is in an anonymous namespace: code compiled for AVX-512 must
// never be picked by the linker for a machine without it.
#pragma once
#include <cstddef>
#include <cstdint>

namespace rsr {

constexpr int kPatterns = 32;  // entries of a lookup table; ranks have five bits

// A part of a ranked index: some rows of one strip, or of several strips that follow one another.
// The columns of a strip follow one another too; how a column holds its rows, and how many column
// blocks it has, is the packing's (formats/SPEC.md):
//   w16   word columns: one 16-bit word a row, 3 blocks; strips of 128 rows
//   n4s1  units: five vectors of one byte a row, 8 blocks; strips of 64 rows
// The last strip may be lower. All numbers of rows are multiples of 32.
struct RankedRows {
  const uint8_t* index;  // its first strip, from that strip's first row on
  size_t first, last;    // the rows wanted, counted from there
  size_t end;            // rows of the index, counted from there: tells the last strip's height
  size_t columns;        // word columns or units
  // int8: a block's sum is at most 128 k; an int16 takes those of this many columns, then it is
  // widened: blocks of a column * flush * 128 * k <= 32767.
  size_t flush;
};

// The scales of a w16 index whose groups of columns have their own.
struct GroupScales {
  const void* data;  // the first group's scale of the first row wanted; rows follow one another
  size_t stride;     // entries from one group to the next
  bool is_half;      // float16; otherwise float32
  size_t blocks;     // column blocks of a group; the last may have fewer
  size_t total;      // column blocks of the index
};

// One vector: first the sums of every column block under all patterns (grow, RSR++ step 1), then
// for every row the sums that its ranks name (lookup, step 2).
template <class X, class Pattern, class Y>
struct VectorKernels {
  size_t block_bytes;  // of the tables, for each column block; their layout is the kernel's own
  size_t extra_bytes;  // beyond that
  // sum of patterns[d * 32 + p] * x[block * k + d] over d, for each block and pattern p.
  // x has blocks * k entries (zero-padded). Multiplying by 0 is done, not skipped: NaN and
  // infinity in x spread as in a dense product.
  void (*grow)(const X* x, const Pattern* patterns, int k, size_t blocks, void* tables);
  // y[r - first] for the rows of one strip: rows.last <= its height.
  void (*lookup)(const RankedRows& rows, const void* tables, Y* y);
  // The same with scales of groups: y[r] = sum over groups of scale * what their blocks give.
  // Packing w16 only.
  void (*lookup_grouped)(const RankedRows& rows, const GroupScales& scales, const void* tables,
                         float* y) = nullptr;
};

// Several vectors at once; columns > 0.
template <class X, class Pattern, class Y>
struct BatchKernels {
  size_t least;  // with fewer vectors than this another kernel is faster; 0: there is none
  size_t most;   // vectors of one pass
  // Memory for what a pass of `count` vectors prepares once and all threads share, and for what
  // each thread keeps to itself, in bytes.
  size_t (*shared_bytes)(size_t columns, int k, size_t count);
  size_t (*own_bytes)(size_t columns, int k, size_t count);
  // Prepares vectors [first, last) of a pass of `count`: multiples of `group`, but for the last.
  // x: (count, columns * blocks of a column * k), zero-padded.
  void (*prepare)(const X* x, const Pattern* patterns, int k, size_t columns, size_t count,
                  size_t first, size_t last, void* shared);
  // y[i * stride + r - first] for all rows wanted and all vectors of the pass.
  void (*multiply)(const RankedRows& rows, const Pattern* patterns, int k, const void* shared,
                   size_t count, void* own, Y* y, size_t stride);
  size_t group = 16;
};

constexpr int kBatchKernels = 3;  // for few and for more vectors: the last that takes them

template <class X, class Pattern, class Y>
struct RankedKernels {
  VectorKernels<X, Pattern, Y> vector;
  BatchKernels<X, Pattern, Y> batch[kBatchKernels];
};

constexpr size_t kBatch = 16;    // permuted vectors at once: a cache line of int32 per row
constexpr size_t kSumLanes = 4;  // of the running sums over a permutation

// Steps that involve the permutation, for its two index types (u16, u32), in int32 modulo 2^32:
// the caller sees to it that what is asked for fits (permuted.cpp).
// sigma: rows entries below rows; L: patterns + 1 entries rising from 0 to rows.
template <class Index>
struct PermutedKernels {
  // Reduce, step 1 (paper, Algorithm 2): u[s] = sum of v[sigma[i]], i in [L[s], L[s+1]).
  // scratch: kSumLanes + rows entries, the first kSumLanes of them zero.
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

// What a decoder does between its products: to each row of activations, and to its queries, keys
// and values. All vectors of floats may have any length.

enum class Activation { silu, relu2 };

// What becomes of a row of n floats: where there is a weight, its RMS norm
// x / sqrt(mean(x^2) + eps) * weight; then it is written as floats, as int8 (activations.h), or as
// both.
struct RowOutput {
  size_t n;
  const float* weight;  // or null
  float eps;
  float* out;  // or null
  int8_t* q;   // or null, then s is too
  float* s;
};

constexpr size_t kLanes = 16;            // floats that kernels work on at once, whatever the set
constexpr size_t kChunkPositions = 128;  // of a sequence, whose softmax is computed by itself
constexpr size_t kMaximum = 0, kTotal = 1, kStatistics = 2;  // of a softmax

// The queries of some rows that share a head of keys and values, and a chunk of positions. Row i
// sees the first `visible` + i of them, at most all: visible > 0.
struct AttentionChunk {
  const float* queries;   // the first row's first; (heads, d) are one row's
  size_t row_stride;      // floats from a row to the next
  size_t rows, heads, d;  // heads: those that share the keys
  size_t visible;
  const void* keys;    // (blocks, d, kLanes): position p is lane p % kLanes of a block
  const void* values;  // (positions, dv), dv: d rounded up to lanes
  bool is_half;        // keys and values are float16; otherwise float32
  float* scratch;      // rows * heads * kChunkPositions; if is_half also kChunkPositions * (d + dv)
  float* sums;         // result, (rows * heads, dv): of exp(score - maximum) * value
  float* statistics;   // result, (rows * heads, kStatistics): maximum, total of the exps
};

struct DecoderKernels {
  // x += add, where there is one; then `to`.
  void (*normalize)(float* x, const float* add, const RowOutput& to);
  // h = activation(gate) * up; then `to` of that. h may be to.out.
  void (*gate)(const float* gate, const float* up, Activation activation, float* h,
               const RowOutput& to);

  // x (d,) = its RMS norm, where there is a weight; then its halves rotated, times scale:
  // (x1 cos - x2 sin, x2 cos + x1 sin) scale. cos, sin: (d / 2,).
  void (*rotate)(float* x, size_t d, const float* weight, float eps, const float* cos,
                 const float* sin, float scale);
  // A position's key and value into the cache: block[c * kLanes] = k[c]; values = v, padded with
  // zeros to dv.
  void (*store)(const float* k, const float* v, size_t d, void* block, void* values, bool is_half);
  // Every query by itself, in an order that depends on nothing else: no other query, nor what the
  // cache holds where it does not look.
  void (*attend)(const AttentionChunk& chunk);
  // Adds the results of a chunk to those of the chunks before it.
  void (*combine)(size_t queries, size_t dv, const float* sums, const float* statistics,
                  float* all_sums, float* all_statistics);
  // out (queries, d) = sums / total.
  void (*divide)(size_t queries, size_t d, const float* sums, const float* statistics, float* out);
};

// Rows of dense weights, as they lie in a file, times vectors:
// y[v * stride + r] = sum over j of weights[r][j] * x[v][j].
// float32: float32 sums, in an order of the columns that is the instruction set's own but the same
// for every row and vector. int8: exact, columns < 2^17, so |sum| <= 2^14 (2^17 - 1) < 2^31; then
// times scale[r] / divisors[v].
template <class X>
struct DenseRows {
  const void* weights;  // (rows, columns), unaligned
  size_t rows, columns;
  const X* x;  // (count, columns)
  size_t count;
  float* y;
  size_t stride;
  const float* scale = nullptr;     // of each row
  const float* divisors = nullptr;  // of each vector
  bool in_order = false;            // one vector: row after row, not some of them side by side
};

struct DenseKernels {
  void (*f32)(const DenseRows<float>&);  // by the type of the weights
  void (*bf16)(const DenseRows<float>&);
  void (*f16)(const DenseRows<float>&);
  void (*i8)(const DenseRows<int8_t>&);
};

struct KernelTable {
  const char* isa;
  bool rows_in_order;  // one vector and a large dense matrix: `in_order` is the faster

  // Encoding ranked, by packing and type of x. int8: exact.
  RankedKernels<int8_t, int16_t, int32_t> w16_i8;
  RankedKernels<float, float, float> w16_f32;  // y is unscaled
  RankedKernels<int8_t, int16_t, int32_t> n4s1_i8;
  RankedKernels<float, float, float> n4s1_f32;

  // RSR's products with Bin_k (k, patterns) of a permuted index: y = bin u, t = x bin.
  void (*multiply_bin)(const int32_t* bin, int k, size_t patterns, const int32_t* u, int32_t* y);
  void (*multiply_bin_transposed)(const int32_t* bin, int k, size_t patterns, const int32_t* x,
                                  int32_t* t);
  PermutedKernels<uint16_t> permuted16;
  PermutedKernels<uint32_t> permuted32;

  DecoderKernels decoder;
  DenseKernels dense;

  // Reads every byte once and returns a value that depends on all: the memory limit of a product.
  uint64_t (*plain_read)(const void* data, size_t bytes);
};

void fill_w16_scalar(KernelTable& table);
void fill_n4s1_scalar(KernelTable& table);
void fill_w16_avx2(KernelTable& table);
void fill_n4s1_avx2(KernelTable& table);
void fill_together_avx2(KernelTable& table);
void fill_batch_avx2(KernelTable& table);
void fill_w16_avx512(KernelTable& table);
void fill_n4s1_avx512(KernelTable& table);
void fill_batch_avx512(KernelTable& table);
void fill_w16_avx512vnni(KernelTable& table);
void fill_w16_amx(KernelTable& table);
void fill_permuted_scalar(KernelTable& table);
void fill_permuted_avx2(KernelTable& table);
void fill_decoder_scalar(KernelTable& table);
void fill_decoder_avx2(KernelTable& table);
void fill_decoder_avx512(KernelTable& table);
void fill_dense_scalar(KernelTable& table);
void fill_dense_avx2(KernelTable& table);
void fill_dense_avx512(KernelTable& table);
void fill_dense_avx512vnni(KernelTable& table);

}  // namespace rsr
