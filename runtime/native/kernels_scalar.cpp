// Plain C++: complete, the fallback everywhere, and what the other files must equal.
#include "kernels.h"

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
void lookup(const uint16_t* words, int rows, size_t columns, const void* tables, Sum* y) {
  for (int r = 0; r < rows; r++) y[r] = 0;
  const Entry* t = static_cast<const Entry*>(tables);
  for (size_t g = 0; g < columns; g++, words += rows, t += kRanksPerWord * kPatterns) {
    for (int r = 0; r < rows; r++) {
      const unsigned w = words[r];
      y[r] += t[w & 31];
      y[r] += t[kPatterns + (w >> 5 & 31)];
      y[r] += t[2 * kPatterns + (w >> 10 & 31)];
    }
  }
}

void lookup_i8(const uint16_t* words, int rows, size_t columns, const void* tables, size_t,
               int32_t* y) {
  lookup<int16_t>(words, rows, columns, tables, y);
}

uint64_t plain_read(const void* data, size_t bytes) {
  const unsigned char* p = static_cast<const unsigned char*>(data);
  uint64_t sum = 0;
  for (size_t i = 0; i < bytes; i++) sum += p[i];
  return sum;
}

}  // namespace

void fill_scalar(KernelTable& table) {
  table.grow_i8 = grow<int8_t, int16_t, int16_t>;
  table.grow_f32 = grow<float, float, float>;
  table.lookup_i8 = lookup_i8;
  table.lookup_f32 = lookup<float, float>;
  table.plain_read = plain_read;
}

}  // namespace rsr
