// Plain C++: complete, the fallback everywhere, and what the other files must equal.
#include "float16.h"
#include "table.h"

namespace rsr {
namespace {

template <class X, class Pattern, class Entry>
void grow(const X* x, const Pattern* patterns, int k, size_t blocks, void* tables) {
  Entry* t = static_cast<Entry*>(tables);
  for (size_t b = 0; b < blocks; b++, x += k, t += kPatterns) {
    for (int p = 0; p < kPatterns; p++) t[p] = 0;
    for (int d = k; d-- > 0;)
      for (int p = 0; p < kPatterns; p++)
        t[p] = static_cast<Entry>(t[p] + patterns[d * kPatterns + p] * x[d]);
  }
}

template <class Entry, class Sum>
void lookup_w16(const RankedRows& rows, const void* tables, Sum* y) {
  const size_t height = rows.end < 128 ? rows.end : 128, count = rows.last - rows.first;
  const Entry* t = static_cast<const Entry*>(tables);
  const uint16_t* words = reinterpret_cast<const uint16_t*>(rows.index) + rows.first;
  for (size_t r = 0; r < count; r++) y[r] = 0;
  for (size_t g = 0; g < rows.columns; g++, words += height, t += 3 * kPatterns) {
    for (size_t r = 0; r < count; r++) {
      const unsigned w = words[r];
      y[r] += t[w & 31];
      y[r] += t[kPatterns + (w >> 5 & 31)];
      y[r] += t[2 * kPatterns + (w >> 10 & 31)];
    }
  }
}

// A group's sum is at most 128 k blocks < 2^31, as in_features < 2^24.
template <class Entry, class Sum>
void lookup_grouped_w16(const RankedRows& rows, const GroupScales& scales, const void* tables,
                        float* y) {
  constexpr size_t kMostRows = 128;
  const size_t height = rows.end < kMostRows ? rows.end : kMostRows;
  const size_t count = rows.last - rows.first;
  const uint16_t* words = reinterpret_cast<const uint16_t*>(rows.index) + rows.first;
  for (size_t r = 0; r < count; r++) y[r] = 0;
  for (size_t b = 0, g = 0; b < scales.total; g++) {
    const size_t stop = b + scales.blocks < scales.total ? b + scales.blocks : scales.total;
    Sum sums[kMostRows] = {};
    for (; b < stop; b++) {
      const Entry* t = static_cast<const Entry*>(tables) + b * kPatterns;
      for (size_t r = 0; r < count; r++)
        sums[r] += t[words[b / 3 * height + r] >> 5 * (b % 3) & 31];
    }
    for (size_t r = 0; r < count; r++) {
      const size_t i = g * scales.stride + r;
      const float scale = scales.is_half ? from_half(static_cast<const uint16_t*>(scales.data)[i])
                                         : static_cast<const float*>(scales.data)[i];
      y[r] += static_cast<float>(sums[r]) * scale;
    }
  }
}

uint64_t plain_read(const void* data, size_t bytes) {
  const unsigned char* p = static_cast<const unsigned char*>(data);
  uint64_t sum = 0;
  for (size_t i = 0; i < bytes; i++) sum += p[i];
  return sum;
}

}  // namespace

void fill_w16_scalar(KernelTable& table) {
  table.w16_i8.vector = {2 * kPatterns, 0, grow<int8_t, int16_t, int16_t>,
                         lookup_w16<int16_t, int32_t>, lookup_grouped_w16<int16_t, int32_t>};
  table.w16_f32.vector = {4 * kPatterns, 0, grow<float, float, float>, lookup_w16<float, float>,
                          lookup_grouped_w16<float, float>};
  table.plain_read = plain_read;
}

}  // namespace rsr
