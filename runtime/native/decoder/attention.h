// Attention of one sequence to its cache of keys and values.
#pragma once
#include "table.h"

namespace rsr {

struct Heads {
  size_t queries, keys;  // of queries; of keys and values: a divisor of it
  size_t d;              // of a head, even
};

// Rotations and norms of queries and keys.
struct Positions {
  const float* cos;  // (context, d / 2)
  const float* sin;
  const float* query_norm;  // (d,) or null
  const float* key_norm;    // (d,) or null
  float eps;
};

// Keys are (heads.keys, blocks, d, kLanes), values (heads.keys, blocks * kLanes, dv) with dv = d
// rounded up to lanes.
struct AttentionCache {
  void* keys;
  void* values;
  size_t blocks;
  bool is_half;  // float16; otherwise float32
};

// The rows are positions start, start + 1, ... of the sequence: q (rows, heads.queries, d), k and v
// (rows, heads.keys, d). Queries and keys are normalised, rotated (row p of cos and sin for
// position p) and overwritten; keys and values go into the cache; then
//   out[i] = softmax(scale * q[i] . keys[0 .. start + i]) values[0 .. start + i]
// for each head, (rows, heads.queries * d).
//
// A softmax is computed for chunks of kChunkPositions, counted from position 0, that are combined
// in order: neither the number of threads nor that of rows changes a result.
void attend(float* q, float* k, const float* v, size_t rows, size_t start, const Heads& heads,
            const Positions& positions, const AttentionCache& cache, float scale, float* out);

}  // namespace rsr
