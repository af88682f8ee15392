#include "decoder/delta_net.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "dispatch.h"
#include "parallel.h"

namespace rsr {
namespace {

constexpr size_t kTileColumns = 4 * kLanes;  // dk times so many floats fit the L1 cache

class DeltaNet {
 public:
  DeltaNet(const DeltaInputs& rows, const DeltaHeads& heads, const DeltaWeights& weights,
           const DeltaState& state)
      : kernels_(kernels().delta_net),
        given_(rows),
        heads_(heads),
        weights_(weights),
        state_(state),
        channels_(heads.channels()) {}

  void run() const {
    if (given_.rows == 0) return;
    convolve_rows();
    keep_last_rows();
    update_heads();
  }

 private:
  // By heads: those of queries, then of keys, then of values; and the gates as one more.
  void convolve_rows() const {
    const size_t pieces = 2 * heads_.keys + heads_.values + 1;
    const size_t cost = given_.rows * channels_ * (weights_.taps + 4) * sizeof(float);
    parallel_for(given_.rows * pieces, cost, [this, pieces](size_t begin, size_t end) {
      for (size_t u = begin; u < end; u++) {
        const size_t row = u / pieces, piece = u % pieces;
        if (piece + 1 < pieces)
          convolve(row, piece);
        else
          gate(row);
      }
    });
  }

  void convolve(size_t row, size_t head) const {
    const size_t before_values = 2 * heads_.keys;
    const bool is_value = head >= before_values;
    const size_t n = is_value ? heads_.dv : heads_.dk;
    const size_t channel =
        is_value ? before_values * heads_.dk + (head - before_values) * n : head * n;
    const float root = 1.0f / std::sqrt(static_cast<float>(heads_.dk));
    const float scale = is_value ? 0.0f : head < heads_.keys ? root : 1.0f;
    const float* rows[kMostTaps];
    for (size_t t = 0; t < weights_.taps; t++) rows[t] = input(row + t) + channel;
    kernels_.convolve({rows, weights_.convolution + channel, weights_.taps, channels_, n}, scale,
                      given_.convolved + row * channels_ + channel);
  }

  // Row i of the inputs that are kept of earlier rows, followed by the given ones.
  const float* input(size_t i) const {
    const size_t kept = weights_.taps - 1;
    return i < kept ? state_.rows + i * channels_ : given_.qkv + (i - kept) * channels_;
  }

  // In float64: these few functions differ between C libraries in the last bits of a float.
  void gate(size_t row) const {
    for (size_t h = 0; h < heads_.values; h++) {
      float &a = given_.a[row * heads_.values + h], &b = given_.b[row * heads_.values + h];
      const double x = static_cast<double>(a + weights_.dt_bias[h]);
      const double softplus = std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x)));
      a = static_cast<float>(std::exp(static_cast<double>(weights_.a[h]) * softplus));
      b = static_cast<float>(1 / (1 + std::exp(-static_cast<double>(b))));
    }
  }

  void keep_last_rows() const {
    const size_t kept = weights_.taps - 1, bytes = channels_ * sizeof(float);
    for (size_t i = 0; i < kept; i++)  // from later rows only, so in this order
      std::memcpy(state_.rows + i * channels_, input(given_.rows + i), bytes);
  }

  // By tiles of the state: columns of a head.
  void update_heads() const {
    const size_t tiles = divide_up(heads_.dv, kTileColumns);
    const size_t state_bytes = heads_.values * heads_.dk * whole_lanes(heads_.dv) * sizeof(float);
    parallel_for(heads_.values * tiles, given_.rows * 2 * state_bytes,
                 [this, tiles](size_t begin, size_t end) {
                   for (size_t u = begin; u < end; u++) update(u / tiles, u % tiles * kTileColumns);
                 });
  }

  void update(size_t head, size_t column) const {
    const size_t key = head / (heads_.values / heads_.keys);
    const float* q = given_.convolved + key * heads_.dk;
    const float* v = given_.convolved + 2 * heads_.keys * heads_.dk + head * heads_.dv + column;
    kernels_.update({q, q + heads_.keys * heads_.dk, v, channels_, given_.a + head, given_.b + head,
                     heads_.values, given_.rows, heads_.dk,
                     std::min(kTileColumns, heads_.dv - column),
                     state_.state + (head * whole_lanes(heads_.dv) + column) * heads_.dk,
                     given_.out + head * heads_.dv + column, heads_.values * heads_.dv});
  }

  const DeltaNetKernels& kernels_;
  const DeltaInputs& given_;
  const DeltaHeads& heads_;
  const DeltaWeights& weights_;
  const DeltaState& state_;
  size_t channels_;
};

}  // namespace

void delta_net(const DeltaInputs& rows, const DeltaHeads& heads, const DeltaWeights& weights,
               const DeltaState& state) {
  DeltaNet(rows, heads, weights, state).run();
}

}  // namespace rsr
