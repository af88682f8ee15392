// Attention of one sequence to its KV cache.
#pragma once
#include "table.h"

namespace rsr {

struct Heads {
  size_t queries, keys;  // query heads; key and value heads, a divisor of the former
  size_t d;              // head_dim, even
};

// Rotary position embedding and norms of queries and keys.
struct Rope {
  const float* cos;  // (context, half)
  const float* sin;
  size_t half;              // of the first features of a head, which are rotated
  const float* query_norm;  // (d), or null
  const float* key_norm;    // (d), or null
  float eps;                // of the norms
  bool norms_follow;        // the rotation; they precede it otherwise
};

enum class CacheType { float32, float16, int8 };

struct KVCache {
  void* keys;    // (heads.keys, blocks, d, kLanes)
  void* values;  // (heads.keys, blocks * kLanes, dv), dv: whole_lanes(d)
  size_t blocks;
  CacheType type;
  float* key_scales = nullptr;    // (heads.keys, blocks * kLanes), int8 only
  float* value_scales = nullptr;  // (heads.keys, blocks * kLanes), int8 only
};

// Rows at positions start, start + 1, ... of the sequence.
struct AttentionRows {
  float* q;        // (rows, heads.queries, d), overwritten
  float* k;        // (rows, heads.keys, d), overwritten
  const float* v;  // (rows, heads.keys, d)
  size_t rows, start;
  float* out;  // (rows, heads.queries * d)
};

// Normalizes and rotates queries and keys, writes keys and values to the cache; then
//   out[i] = softmax(scale * q[i] . keys[0 .. start + i]) values[0 .. start + i]
// for each head, where a row sees no more than the last `window` positions.
//
// A softmax is computed over chunks of kChunkPositions, counted from position 0, which are combined
// in order. So neither the number of threads nor that of rows changes a result.
void attend(const AttentionRows& rows, const Heads& heads, const Rope& rope, const KVCache& cache,
            float scale, size_t window);

}  // namespace rsr
