// Gated delta net of one sequence (arXiv 2412.06464), with a short convolution before it.
#pragma once
#include "table.h"

namespace rsr {

constexpr size_t kMostTaps = 16;

struct DeltaHeads {
  size_t values, keys;  // value heads; query and key heads, a divisor of the former
  size_t dv, dk;

  size_t channels() const { return 2 * keys * dk + values * dv; }
};

struct DeltaWeights {
  const float* convolution;  // (taps, channels), of the oldest row first
  size_t taps;               // 1 to kMostTaps
  const float* a;            // (values): negative, of the decay
  const float* dt_bias;      // (values)
};

// What a layer keeps of a sequence; all zero before its first row.
struct DeltaState {
  float* rows;   // (taps - 1, channels): the last inputs of the convolution
  float* state;  // (values, whole_lanes(dv) / kLanes, dk, kLanes): of each head dk x dv
};

// Consecutive rows of the sequence.
struct DeltaInputs {
  const float* qkv;  // (rows, channels): query heads, key heads, value heads
  float* a;          // (rows, values); overwritten with the decays
  float* b;          // (rows, values); overwritten with the rates
  size_t rows;
  float* convolved;  // (rows, channels), scratch
  float* out;        // (rows, values * dv)
};

// Convolves qkv, normalizes queries and keys, and lets the rows pass through the state: the kernel
// `update` (table.h) with decay = exp(a softplus(a_row + dt_bias)) and rate = sigmoid(b_row). Value
// head h takes query and key head h / (values / keys); queries are divided by sqrt(dk).
//
// A row has the same bits whether it comes alone or with others, on any number of threads.
void delta_net(const DeltaInputs& rows, const DeltaHeads& heads, const DeltaWeights& weights,
               const DeltaState& state);

}  // namespace rsr
