// Packing n4s1 in plain C++: what the other files must equal.
//
// A rank is 13 plus or minus a magnitude: four bits of magnitude and one of sign index a table.
#include "table.h"

namespace rsr {
namespace {

constexpr size_t kStripRows = 64, kBlocks = 8, kEntries = 32;

// Entries 0-15 by magnitude, 16-31 the same negative. Magnitudes 14 and 15 are no pattern: zero.
template <class X, class Pattern, class Entry>
void grow(const X* x, const Pattern* patterns, int k, size_t blocks, void* tables) {
  Entry* t = static_cast<Entry*>(tables);
  for (size_t b = 0; b < blocks; b++, x += k, t += kEntries) {
    for (size_t m = 0; m < 16; m++) {
      Entry sum = 0;
      for (int d = k; d-- > 0;)
        sum = static_cast<Entry>(sum + patterns[d * kPatterns + 13 + m] * x[d]);
      t[m] = sum;
      t[16 + m] = static_cast<Entry>(-sum);
    }
  }
}

template <class Entry, class Sum>
void lookup(const RankedRows& rows, const void* tables, Sum* y) {
  const size_t height = rows.end < kStripRows ? rows.end : kStripRows;
  const size_t count = rows.last - rows.first;
  const Entry* t = static_cast<const Entry*>(tables);
  const uint8_t* unit = rows.index + rows.first;
  for (size_t r = 0; r < count; r++) y[r] = 0;
  for (size_t u = 0; u < rows.columns; u++, unit += 5 * height, t += kBlocks * kEntries) {
    for (size_t r = 0; r < count; r++) {
      const unsigned signs = unit[4 * height + r];
      Sum sum = y[r];
      for (int i = 0; i < 4; i++) {
        const unsigned n = unit[i * height + r];
        sum += t[2 * i * kEntries + ((n & 15) | (signs >> (7 - 2 * i) & 1) << 4)];
        sum += t[(2 * i + 1) * kEntries + (n >> 4 | (signs >> (6 - 2 * i) & 1) << 4)];
      }
      y[r] = sum;
    }
  }
}

}  // namespace

void fill_n4s1_scalar(KernelTable& table) {
  table.n4s1_i8.vector = {kEntries * sizeof(int16_t), 0, grow<int8_t, int16_t, int16_t>,
                          lookup<int16_t, int32_t>};
  table.n4s1_f32.vector = {kEntries * sizeof(float), 0, grow<float, float, float>,
                           lookup<float, float>};
}

}  // namespace rsr
