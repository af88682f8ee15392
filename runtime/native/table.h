// The kernel table: every product reaches its kernels through named slots.
//
// fill_table (dispatch.cpp) fills a table with plain C++ first; each wider instruction set then
// overrides the slots that it does better. A kernel file exports its fill functions and nothing
// else. Everything else in it is in an anonymous namespace, as is what it includes: the linker must
// never pick code compiled for AVX-512 for a machine without it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "packing.h"

namespace rsr {

// Each includes those of its processor before it.
enum class Isa { scalar, avx2, avx512, avx512vnni, amx, neon, neon_dotprod, neon_i8mm };

// The groups of columns of an index.
struct Grouping {
  size_t blocks_per_group;  // column blocks; the last group may have fewer
  size_t blocks;            // column blocks of the index
  size_t inputs = 0;        // of a group, less the zeros that complete its last block; 0: no zeros
};

// Some rows of a ranked index: of one strip, or of several consecutive strips. Row counts are
// multiples of kRowUnit.
struct RankedRows {
  const uint8_t* index;      // first row of the first strip
  size_t first, last;        // rows wanted, counted from there
  size_t end;                // rows of the index, counted from there: gives the last strip's height
  size_t columns;            // word columns or units
  size_t columns_per_widen;  // packing.h
  Grouping grouping = {0, 0};     // packing n4s1: how groups are cut into units; 0: no groups
  bool has_few_patterns = false;  // whether entries of tables from kFewPatterns on are zero
};

// The scales of an index with a scale for each row and group of columns.
struct GroupScales {
  const void* data;  // (groups, stride), from the first row wanted
  size_t stride;     // entries from one group to the next
  bool is_half;      // float16; otherwise float32
  Grouping grouping;
  // (count, groups): the steps of inputs that are quantized by groups, factors of the scales;
  // null: 1.
  const float* steps = nullptr;
};

namespace {
// The words of the first row wanted, in the first column of its strip.
inline const uint16_t* words_of(const RankedRows& rows) {
  return reinterpret_cast<const uint16_t*>(rows.index) + rows.first;
}

// Calls body with the number of row units wanted, as a constant. The rows are of one strip.
template <class Packing, int R = 1, class Body>
inline void with_units(const RankedRows& rows, const Body& body) {
  if constexpr (R * kRowUnit < Packing::kStripRows) {
    if (rows.last - rows.first > R * kRowUnit) return with_units<Packing, R + 1>(rows, body);
  }
  body(std::integral_constant<int, R>());
}

// Calls body with k as a constant if it is 3, of ternary digits, or 2, of digits up to 2; otherwise
// with 0, for any.
template <class Body>
inline void with_k(int k, const Body& body) {
  if (k == 3) return body(std::integral_constant<int, 3>());
  k == 2 ? body(std::integral_constant<int, 2>()) : body(std::integral_constant<int, 0>());
}

inline size_t group_count(const Grouping& grouping) {
  return divide_up(grouping.blocks, grouping.blocks_per_group);
}

// One past the last column block of the group that begins with block `begin`.
inline size_t group_end(const Grouping& grouping, size_t begin) {
  return begin + min(grouping.blocks - begin, grouping.blocks_per_group);
}

// Inputs of the group that begins with block `begin`, less the zeros that complete its last block.
inline size_t inputs_of_group(const Grouping& grouping, size_t begin, int k) {
  const size_t all = (group_end(grouping, begin) - begin) * k;
  return grouping.inputs ? min(grouping.inputs, all) : all;
}

inline size_t entry_bytes(const GroupScales& scales) { return scales.is_half ? 2 : 4; }

// The scales of a group from a row on, counted from the first row wanted.
inline const char* scales_at(const GroupScales& scales, size_t group, size_t row) {
  return static_cast<const char*>(scales.data) +
         (group * scales.stride + row) * entry_bytes(scales);
}

inline float step_of(const GroupScales& scales, size_t vector, size_t group) {
  return scales.steps ? scales.steps[vector * group_count(scales.grouping) + group] : 1.0f;
}
}  // namespace

// One vector. Step 1 of RSR++ builds a table of each column block: its sums under all patterns.
// Step 2 looks up, for every row, the sums that its ranks name, and adds them.
template <class X, class Pattern, class Y>
struct VectorKernel {
  size_t table_bytes;   // of a column block; the kernel decides the layout of its tables
  size_t header_bytes;  // in front of the tables
  // tables[b][p] = sum over d of patterns[d * kPatterns + p] * x[b * k + d].
  // x: (blocks * k), zero-padded. patterns: (k, kPatterns). A zero digit is multiplied, not
  // skipped, so that NaN and infinity in x spread as in a dense product.
  void (*build_tables)(const X* x, const Pattern* patterns, int k, size_t blocks, void* tables);
  // y: (last - first), for rows of one strip.
  void (*lookup)(const RankedRows& rows, const void* tables, Y* y);
  // y[r] = sum over groups of (scale[group][r] * step[group]) * (the sum of the group's blocks).
  void (*lookup_grouped)(const RankedRows& rows, const GroupScales& scales, const void* tables,
                         float* y) = nullptr;
  // The tables of lookup_grouped; null: those of build_tables.
  void (*build_grouped_tables)(const X* x, const Pattern* patterns, int k, const Grouping& grouping,
                               void* tables) = nullptr;
};

// As min_vectors: no pass has so many vectors, but a row of processor.cpp may say fewer. 0 means
// that there is no kernel.
constexpr size_t kNever = size_t(1) << 30;

// Several vectors at once.
template <class X, class Pattern, class Y>
struct BatchKernel {
  size_t min_vectors;  // with fewer, another kernel is faster; 0: there is no such kernel
  size_t max_vectors;  // of one pass
  // Bytes that a pass of `count` vectors prepares once for all threads, and bytes of each thread.
  size_t (*shared_bytes)(size_t columns, int k, size_t count);
  size_t (*per_thread_bytes)(size_t columns, int k, size_t count);
  // Prepares vectors [first, last) of a pass of `count`. Both are multiples of prepare_step,
  // except that last may be count. x: (count, columns * blocks of a column * k), zero-padded;
  // columns > 0.
  void (*prepare)(const X* x, const Pattern* patterns, int k, size_t columns, size_t count,
                  size_t first, size_t last, void* shared);
  // y[i * stride + r - first] for all rows wanted and all vectors i of the pass.
  void (*multiply)(const RankedRows& rows, const Pattern* patterns, int k, const void* shared,
                   size_t count, void* per_thread, Y* y, size_t stride);
  size_t prepare_step = 16;
  // Whether a pass may hold the vector x (n); null: any vector.
  bool (*takes)(const X* x, size_t n) = nullptr;
  // A pass of more vectors than this is a multiple of it: part of a set takes as long as a whole.
  size_t set = 1;
  int max_k = kMaxK;  // wider column blocks are left to another kernel
};

// Several vectors at once, times an index with scales of groups of columns.
template <class X, class Pattern>
struct GroupedBatchKernel {
  size_t min_vectors, max_vectors;  // as those of BatchKernel, as are functions of the same name
  size_t (*shared_bytes)(const Grouping& grouping, int k, size_t count);
  size_t (*per_thread_bytes)(const Grouping& grouping, int k, size_t count);
  // x: (count, columns * blocks of a column * k), where each group is zero-padded to whole blocks.
  void (*prepare)(const X* x, const Pattern* patterns, int k, size_t columns,
                  const Grouping& grouping, size_t count, size_t first, size_t last, void* shared);
  // y[i * stride + r - first] = sum over groups of (scale[group][r] * step[i][group]) * (the sum
  // of the group's blocks under vector i), for all rows wanted and all vectors i of the pass.
  void (*multiply)(const RankedRows& rows, const GroupScales& scales, const Pattern* patterns,
                   int k, const void* shared, size_t count, void* per_thread, float* y,
                   size_t stride);
  size_t prepare_step = 16;
  bool (*takes)(const X* x, size_t n) = nullptr;
  size_t min_group_inputs = 0;  // groups with fewer inputs are left to another kernel
  size_t set = 1;
  int max_k = kMaxK;
};

// Encoding ranked in one packing, for one type of inputs.
template <class X_, class Pattern_, class Y_>
struct RankedKernels {
  using X = X_;
  using Pattern = Pattern_;
  using Y = Y_;
  using Vector = VectorKernel<X, Pattern, Y>;
  using Batch = BatchKernel<X, Pattern, Y>;
  using GroupedBatch = GroupedBatchKernel<X, Pattern>;

  Vector vector;
  Batch small_batch, medium_batch, large_batch;
  GroupedBatch small_grouped_batch, large_grouped_batch;
};
using RankedKernelsI8 = RankedKernels<int8_t, int16_t, int32_t>;  // exact
using RankedKernelsF32 = RankedKernels<float, float, float>;

constexpr size_t kBatch = 16;    // permuted vectors at once: a row of int32 is a cache line
constexpr size_t kSumLanes = 4;  // running sums over a permutation

// The steps of a permuted product that read the permutation, in int32 modulo 2^32: the caller makes
// sure that the results fit (permuted.cpp).
// Index: uint16_t or uint32_t. sigma: (rows), a permutation. L: (patterns + 1), the segment list,
// ascending from 0 to rows.
template <class Index>
struct PermutedKernels {
  // Reduce, step 1 (paper, Algorithm 2): u[s] = sum of v[sigma[i]], i in [L[s], L[s + 1]).
  // scratch: (kSumLanes + rows), the first kSumLanes zero.
  void (*segment_sums)(const int32_t* v, const Index* sigma, const Index* L, size_t patterns,
                       int32_t* scratch, int32_t* u);
  // The same for kBatch interleaved vectors: v (rows, kBatch), u (patterns, kBatch).
  void (*segment_sums_batch)(const int32_t* v, const Index* sigma, const Index* L, size_t patterns,
                             int32_t* u);
  // Expand, step 2: y[sigma[i]] += t[s], i in [L[s], L[s + 1]).
  // scratch: (rows + 1), zero before; afterwards all but the last are zero again.
  void (*segment_adds)(const int32_t* t, const Index* sigma, const Index* L, size_t patterns,
                       int32_t* scratch, int32_t* y);
};

// RSR's products with Bin_k (k, patterns), in int32 modulo 2^32.
struct BinKernels {
  // y (k) = bin u (patterns).
  void (*multiply)(const int32_t* bin, int k, size_t patterns, const int32_t* u, int32_t* y);
  // t (patterns) = x (k) bin.
  void (*multiply_transposed)(const int32_t* bin, int k, size_t patterns, const int32_t* x,
                              int32_t* t);
};

enum class Activation { silu, relu2, gelu_tanh, sigmoid };

// Output of a row of n floats h. With a weight it is first normalized:
// h = h / sqrt(mean(h^2) + eps) * weight. Then it is written as floats, as int8 (activations.h) by
// row or by groups of columns, or as both.
struct RowOutput {
  size_t n;
  const float* weight;  // (n), or null
  float eps;
  float* out;  // (n), or null
  int8_t* q;   // (n), or null together with s
  float* s;    // (1); with groups their steps, (groups)
  // Of a group of which each has a step; the last may have fewer. 0: no groups.
  size_t group_columns = 0;
};

namespace {
// Entries of s.
inline size_t scale_count(const RowOutput& to) {
  return to.group_columns ? divide_up(to.n, to.group_columns) : 1;
}
}  // namespace

constexpr size_t kLanes = 16;            // floats of a vector of decoder kernels, on every set
constexpr size_t kChunkPositions = 128;  // positions whose softmax is computed independently
constexpr size_t kMaximum = 0, kTotal = 1, kStatistics = 2;  // of a softmax

namespace {
constexpr size_t whole_lanes(size_t n) { return (n + kLanes - 1) / kLanes * kLanes; }
}  // namespace

// The queries of some rows that share a key head, and a chunk of positions. Row i sees the last
// `window` of the first visible + i positions, as far as they are in the chunk; at least one is.
struct AttentionChunk {
  const float* queries;   // the first row; each row is (heads, d)
  size_t row_stride;      // floats from one row to the next
  size_t rows, heads, d;  // heads: query heads that share the key head
  size_t visible, window;
  const void* keys;    // (blocks, d, kLanes): position p is lane p % kLanes of block p / kLanes
  const void* values;  // (positions, dv), dv: whole_lanes(d)
  const float* key_scales;    // (kChunkPositions), of a cache of int8
  const float* value_scales;  // (kChunkPositions), of a cache of int8
  void* scratch;
  float* sums;        // result, (rows * heads, dv): sum of exp(score - maximum) * value
  float* statistics;  // result, (rows * heads, kStatistics): maximum, total of the exponentials
  // The results hold those of chunks before, and are combined with these as `combine` does.
  bool combines = false;
  const void* next_keys = nullptr;  // of the chunk that follows, to be prefetched; or null
  const void* next_values = nullptr;
};

// Where the cache holds a position of a key head.
struct CachePosition {
  void* key;  // in its block: of one dimension after the other, kLanes apart
  void* value;
  float *key_scale, *value_scale;  // of a cache of int8
};

// A KV cache of one type.
struct CacheKernels {
  // key[c * kLanes] = k[c], value (dv) = v, zero-padded; int8: k / key_scale and v / value_scale,
  // rounded half to even, with scales of max |k| / 127 and max |v| / 127; a scale is NaN if one of
  // its numbers is not finite, and 0 below 1e-30.
  void (*store)(const float* k, const float* v, size_t d, const CachePosition& to);
  size_t (*scratch_bytes)(size_t queries, size_t d);
  // Each query is computed in an order that depends neither on other queries nor on what the cache
  // holds at positions that the query does not see.
  void (*attend)(const AttentionChunk& chunk);
  size_t most_queries;  // of a call: with more, their scratch memory leaves the caches
};

// What a decoder computes between its products. Vectors of floats may have any length.
struct DecoderKernels {
  // x (n) += add (n), unless add is null; then `to` of x.
  void (*normalize)(float* x, const float* add, const RowOutput& to);
  // h = activation(gate) * up, all (n); then `to` of h. h may be to.out.
  void (*gate)(const float* gate, const float* up, Activation activation, float* h,
               const RowOutput& to);
  // x (d): RMS norm, unless weight is null; then RoPE of the halves of its first 2 * half features,
  // and all times scale: (x1 cos - x2 sin, x2 cos + x1 sin, x3) scale. cos, sin: (half).
  void (*rotate)(float* x, size_t d, size_t half, const float* weight, float eps, const float* cos,
                 const float* sin, float scale);
  CacheKernels f32, f16, i8;  // by the type of the cache
  // Adds the results of a chunk to those of the chunks before it.
  void (*combine)(size_t queries, size_t dv, const float* sums, const float* statistics,
                  float* all_sums, float* all_statistics);
  // out (queries, d) = sums / total. A zero is +0.
  void (*divide)(size_t queries, size_t d, const float* sums, const float* statistics, float* out);
};

// Some channels of a row of a causal convolution in time, whose channels do not mix.
struct ConvolvedChannels {
  const float* const* rows;  // (taps): these channels of the last rows, the oldest first
  const float* weights;      // (taps, stride), from the first of these channels
  size_t taps, stride, n;
};

// Some columns of the state of a head of a gated delta net, and the rows that pass through it.
struct DeltaRows {
  const float *q, *k;  // of the first row, (dk)
  const float* v;      // of the first row, (columns)
  size_t stride;       // floats from a row to the next of q, k and v
  const float *decay, *rate;
  size_t gate_stride;  // of decay and rate
  size_t rows, dk, columns;
  float* state;  // (whole_lanes(columns) / kLanes, dk, kLanes)
  float* out;    // of the first row, (columns)
  size_t out_stride;
};

// A gated delta net (arXiv 2412.06464): linear attention with a state of fixed size.
struct DeltaNetKernels {
  // out (n) = silu(sum over t of weights[t] * rows[t]), summed from the oldest; then, unless
  // `scale` is 0, out *= scale / sqrt(sum of out^2 + 1e-6). out may not overlap rows.
  void (*convolve)(const ConvolvedChannels& of, float scale, float* out);
  // For each row in order: S = decay S, e = rate (v - S^T k), S += k e^T, out = S^T q. Columns are
  // padded with zeros in the state. Each column of each row is computed in an order that depends
  // neither on other columns nor on how many rows a call has.
  void (*update)(const DeltaRows& rows);
  // h (heads, d) = RMS norm of each head of x times weight (d), times silu(z); then `to` of h, of
  // heads * d floats and without a weight. h may be to.out.
  void (*norm_gated)(const float* x, const float* z, size_t d, const float* weight, float eps,
                     float* h, const RowOutput& to);
};

// Dense weights, as a file stores them, times vectors:
// y[v * stride + r] = sum over j of weights[r][j] * x[v][j].
// float32: the order of additions over j depends only on the instruction set. int8: exact, as
// columns < 2^17 and so |sum| <= 2^14 (2^17 - 1) < 2^31; then
// * scale[r] / divisors[v].
template <class X>
struct DenseRows {
  const void* weights;  // (rows, columns), unaligned
  size_t rows, columns;
  const X* x;  // (count, columns)
  size_t count;
  float* y;
  size_t stride;
  const float* scale = nullptr;     // (rows), int8 only
  const float* divisors = nullptr;  // (count), int8 only
  bool in_order = false;            // one vector: row after row, not several rows side by side
};

struct DenseKernels {
  void (*f32)(const DenseRows<float>&);  // by the dtype of the weights
  void (*bf16)(const DenseRows<float>&);
  void (*f16)(const DenseRows<float>&);
  void (*i8)(const DenseRows<int8_t>&);
  bool large_in_order =
      false;  // in_order is faster for one vector times a matrix beyond the caches
};

// What a low-rank product adds to some rows:
// y[i * stride + r] += scale * (sum over j of B[r][j] * t[i][j]), a float32 sum in the order of j.
struct LowRankRows {
  const void* b;  // (tiles, rank, kLanes): of each tile of kLanes rows, column j; zero-padded
  size_t rank, rows;
  float scale;
  const float* t;  // (count, rank)
  size_t count;
  float* y;
  size_t stride;
};

// The type of bfloat16 cells in memory; that of float16 is uint16_t.
struct BFloat16 {
  uint16_t bits;
};

struct LowRankKernels {
  void (*f32)(const LowRankRows&);  // by the dtype of B
  void (*bf16)(const LowRankRows&);
  void (*f16)(const LowRankRows&);
};

// Signed Walsh-Hadamard transforms of rows of n floats, in blocks of 2^m >= kLanes that divide n:
// H[r][c] = (-1)^(the ones in r & c), not normalized. y may be x. The bits are the same on every
// set.
struct HadamardKernels {
  void (*forward)(const float* x, const float* factors, size_t n, size_t block,
                  float* y);  // y = H (factors * x)
  void (*inverse)(const float* x, const float* factors, size_t n, size_t block,
                  float* y);  // y = factors * (H x)
};

struct KernelTable {
  const char* isa;
  RankedKernelsI8 w16_i8;
  RankedKernelsF32 w16_f32;  // unscaled
  RankedKernelsI8 n4s1_i8;
  RankedKernelsF32 n4s1_f32;
  PermutedKernels<uint16_t> permuted16;
  PermutedKernels<uint32_t> permuted32;
  BinKernels bin;
  DecoderKernels decoder;
  DeltaNetKernels delta_net;
  LowRankKernels low_rank;
  DenseKernels dense;
  HadamardKernels hadamard;
  // Reads every byte once; the result depends on each. Its speed is the memory limit of a product.
  uint64_t (*plain_read)(const void* data, size_t bytes);
};

void fill_decoder_scalar(KernelTable&);
void fill_dense_scalar(KernelTable&);
void fill_hadamard_scalar(KernelTable&);
void fill_n4s1_scalar(KernelTable&);
void fill_probe_scalar(KernelTable&);
void fill_segments_scalar(KernelTable&);
void fill_w16_scalar(KernelTable&);

void fill_decoder_avx2(KernelTable&);
void fill_dense_avx2(KernelTable&);
void fill_hadamard_avx2(KernelTable&);
void fill_n4s1_f32_avx2(KernelTable&);
void fill_n4s1_i8_avx2(KernelTable&);
void fill_probe_avx2(KernelTable&);
void fill_segments_avx2(KernelTable&);
void fill_small_batch_avx2(KernelTable&, Isa);  // for this set: its rivals set the thresholds
void fill_tables_avx2(KernelTable&, Isa);
void fill_w16_avx2(KernelTable&);
void fill_w16_grouped_avx2(KernelTable&);

void fill_decoder_avx512(KernelTable&);
void fill_dense_avx512(KernelTable&);
void fill_hadamard_avx512(KernelTable&);
void fill_n4s1_avx512(KernelTable&);
void fill_probe_avx512(KernelTable&);
void fill_small_batch_avx512(KernelTable&);
void fill_tables_avx512(KernelTable&);
void fill_w16_avx512(KernelTable&);
void fill_w16_grouped_avx512(KernelTable&);

void fill_dense_avx512vnni(KernelTable&);
void fill_grouped_panels_avx512vnni(KernelTable&);
void fill_panels_avx512vnni(KernelTable&);

void fill_grouped_panels_amx(KernelTable&);
void fill_panels_amx(KernelTable&);
void fill_panels_bf16_amx(KernelTable&);

void fill_decoder_neon(KernelTable&);
void fill_dense_neon(KernelTable&);
void fill_hadamard_neon(KernelTable&);
void fill_n4s1_f32_neon(KernelTable&);
void fill_n4s1_i8_neon(KernelTable&);
void fill_probe_neon(KernelTable&);
void fill_segments_neon(KernelTable&);
void fill_tables_neon(KernelTable&, Isa);
void fill_w16_neon(KernelTable&);

void fill_dense_neon_dotprod(KernelTable&);
void fill_panels_neon_dotprod(KernelTable&);

void fill_panels_neon_i8mm(KernelTable&);

}  // namespace rsr
