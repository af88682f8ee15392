// Packing n4s1 in plain C++: the fallback on every processor, and the reference of the other files.
#include "table.h"

namespace rsr {
namespace {

// Entries 0-15 by magnitude, 16-31 their negatives. Magnitudes 14 and 15 are no pattern: their
// columns of `patterns` are zero.
template <class X, class Pattern, class Entry>
void build_tables(const X* x, const Pattern* patterns, int k, size_t blocks, void* tables) {
  Entry* t = static_cast<Entry*>(tables);
  for (size_t b = 0; b < blocks; b++, x += k, t += kPatterns) {
    for (size_t m = 0; m < N4S1::kMagnitudes; m++) {
      Entry sum = 0;
      for (int d = k; d-- > 0;)
        sum = static_cast<Entry>(sum + patterns[d * kPatterns + N4S1::kZeroRank + m] * x[d]);
      t[m] = sum;
      t[N4S1::kMagnitudes + m] = static_cast<Entry>(-sum);
    }
  }
}

template <class Entry, class Sum>
void lookup(const RankedRows& rows, const void* tables, Sum* y) {
  const size_t height = strip_height<N4S1>(rows.end), count = rows.last - rows.first;
  const Entry* t = static_cast<const Entry*>(tables);
  const uint8_t* unit = rows.index + rows.first;
  for (size_t r = 0; r < count; r++) y[r] = 0;
  for (size_t u = 0; u < rows.columns;
       u++, unit += N4S1::kCellBytes * height, t += N4S1::kBlocks * kPatterns) {
    for (size_t r = 0; r < count; r++) {
      const unsigned signs = unit[N4S1::kSignVector * height + r];
      Sum sum = y[r];
      for (int i = 0; i < 4; i++) {
        const unsigned n = unit[i * height + r];
        sum += t[2 * i * kPatterns + ((n & 15) | (signs >> (7 - 2 * i) & 1) << 4)];
        sum += t[(2 * i + 1) * kPatterns + (n >> 4 | (signs >> (6 - 2 * i) & 1) << 4)];
      }
      y[r] = sum;
    }
  }
}

}  // namespace

void fill_n4s1_scalar(KernelTable& table) {
  table.n4s1_i8.vector = {kPatterns * sizeof(int16_t), 0, build_tables<int8_t, int16_t, int16_t>,
                          lookup<int16_t, int32_t>};
  table.n4s1_f32.vector = {kPatterns * sizeof(float), 0, build_tables<float, float, float>,
                           lookup<float, float>};
}

}  // namespace rsr
