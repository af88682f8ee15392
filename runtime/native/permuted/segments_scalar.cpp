// Segment sums in plain C++, without a branch per segment: a loop over each segment would
// mispredict its end, at 20 cycles each (Zen 4, docs/lab-notes.md).
#include "permuted/bin.h"
#include "table.h"

namespace rsr {
namespace {

inline uint32_t four(const uint32_t* p) { return p[0] + p[1] + p[2] + p[3]; }

// Running sums in kSumLanes lanes: sums[i] is the sum of elements i, i - 4, i - 8, .... So the four
// entries before i add up to the sum of all elements before i, and a segment's sum is the
// difference of two such fours, whatever its length. Exact modulo 2^32.
template <class Index>
void segment_sums(const int32_t* v, const Index* sigma, const Index* L, size_t patterns,
                  int32_t* scratch, int32_t* u) {
  const size_t rows = L[patterns];
  uint32_t* sums = reinterpret_cast<uint32_t*>(scratch) + kSumLanes;
  uint32_t a = 0, b = 0, c = 0, d = 0;
  size_t i = 0;
  for (; i + kSumLanes <= rows; i += kSumLanes) {
    sums[i] = a += v[sigma[i]];
    sums[i + 1] = b += v[sigma[i + 1]];
    sums[i + 2] = c += v[sigma[i + 2]];
    sums[i + 3] = d += v[sigma[i + 3]];
  }
  for (; i < rows; i++) sums[i] = sums[i - kSumLanes] + v[sigma[i]];

  uint32_t before = 0;
  for (size_t s = 0; s < patterns; s++) {
    const uint32_t through = four(sums + L[s + 1] - kSumLanes);
    u[s] = static_cast<int32_t>(through - before);
    before = through;
  }
}

template <class Index>
void segment_sums_batch(const int32_t* v, const Index* sigma, const Index* L, size_t patterns,
                        int32_t* u) {
  for (size_t s = 0; s < patterns; s++, u += kBatch) {
    uint32_t sums[kBatch] = {};
    for (size_t i = L[s]; i < L[s + 1]; i++)
      for (size_t j = 0; j < kBatch; j++) sums[j] += v[sigma[i] * kBatch + j];
    for (size_t j = 0; j < kBatch; j++) u[j] = static_cast<int32_t>(sums[j]);
  }
}

// The transpose: the running sum of the differences between adjacent segments is, at each row, the
// t of its segment. A load and a store per row are the limit: 1.3 cycles (Zen 4).
template <class Index>
void segment_adds(const int32_t* t, const Index* sigma, const Index* L, size_t patterns,
                  int32_t* scratch, int32_t* y) {
  const size_t rows = L[patterns];
  uint32_t* steps = reinterpret_cast<uint32_t*>(scratch);
  uint32_t before = 0;
  for (size_t s = 0; s < patterns; s++) {
    steps[L[s]] += t[s] - before;
    before = t[s];
  }

  uint32_t now = 0;
  const auto add = [&](size_t row, uint32_t step) { y[row] += now += step; };
  size_t i = 0;
  for (; i + 4 <= rows; i += 4) {
    add(sigma[i], steps[i]);
    add(sigma[i + 1], steps[i + 1]);
    add(sigma[i + 2], steps[i + 2]);
    add(sigma[i + 3], steps[i + 3]);
    for (size_t j = 0; j < 4; j++) steps[i + j] = 0;
  }
  for (; i < rows; i++) {
    add(sigma[i], steps[i]);
    steps[i] = 0;
  }
}

template <class Index>
constexpr PermutedKernels<Index> kPermuted = {segment_sums<Index>, segment_sums_batch<Index>,
                                              segment_adds<Index>};

}  // namespace

void fill_segments_scalar(KernelTable& table) {
  table.bin = {multiply_bin, multiply_bin_transposed};
  table.permuted16 = kPermuted<uint16_t>;
  table.permuted32 = kPermuted<uint32_t>;
}

}  // namespace rsr
