#include <algorithm>
#include <array>
#include <cstdlib>

#include "encode.h"

namespace rsr {
namespace {

constexpr size_t kUnitsAtOnce = 8;              // 192 digits: three cache lines of a row
constexpr uint64_t kOnes = 0x0101010101010101;  // 1 in every byte

using Pairs = std::array<uint16_t, 1024>;

// Indexed by the ranks of two adjacent column blocks, left in bits 0-4, right in bits 5-9. The low
// byte of an entry holds the magnitudes |rank - 13|, left in the low nibble; bit 9 is set if left
// is negative, bit 8 if right is.
Pairs make_pairs() {
  Pairs pairs{};
  for (int right = 0; right < 27; right++) {
    for (int left = 0; left < 27; left++) {
      const int nibbles = std::abs(left - 13) | std::abs(right - 13) << 4;
      pairs[left | right << 5] =
          static_cast<uint16_t>(nibbles | (left < 13) << 9 | (right < 13) << 8);
    }
  }
  return pairs;
}

uint64_t load(const uint8_t* digits) {
  uint64_t value = 0;
  for (int i = 0; i < 8; i++) value |= uint64_t(digits[i]) << (8 * i);  // compiles to one load
  return value;
}

// The entry of `pairs` for the two column blocks in the low six bytes of `digits`. Byte i of the
// product is 9 digit[i - 2] + 3 digit[i - 1] + digit[i] <= 26, so no byte carries into the next,
// and bytes 2 and 5 are the ranks: one multiplication and one load for six digits.
inline unsigned pair(const Pairs& pairs, uint64_t digits) {
  const uint64_t ranks = digits * 0x090301;
  return pairs[(ranks >> 16 & 31) | (ranks >> 35 & 31 << 5)];
}

// Packs the 24 digits of a row in a unit into five bytes, `height` apart. Returns 0 if all digits
// are valid.
inline uint64_t pack_unit(const Pairs& pairs, const uint8_t* d, size_t height, uint8_t* out) {
  const uint64_t a = load(d), b = load(d + 8), c = load(d + 16);
  const unsigned p0 = pair(pairs, a), p1 = pair(pairs, a >> 48 | b << 16);
  const unsigned p2 = pair(pairs, b >> 32 | c << 32), p3 = pair(pairs, c >> 16);
  out[0] = static_cast<uint8_t>(p0);
  out[height] = static_cast<uint8_t>(p1);
  out[2 * height] = static_cast<uint8_t>(p2);
  out[3 * height] = static_cast<uint8_t>(p3);
  out[4 * height] =
      static_cast<uint8_t>((p0 >> 8) << 6 | (p1 >> 8) << 4 | (p2 >> 8) << 2 | p3 >> 8);
  // A digit is invalid if one of its high six bits is set, or both low bits (3).
  constexpr uint64_t kHigh = ~(3 * kOnes);
  return ((a | b | c) & kHigh) | (((a & a >> 1) | (b & b >> 1) | (c & c >> 1)) & kOnes);
}

// The same for a short unit of n blocks; digits that it lacks are 1. Vectors that hold magnitudes
// are those of a whole unit, and the signs are in the last vector.
inline uint64_t pack_short_unit(const Pairs& pairs, const uint8_t* d, size_t n, size_t height,
                                uint8_t* out) {
  uint8_t whole[N4S1::kCellBytes];
  const uint64_t bad = pack_unit(pairs, d, 1, whole);
  const size_t bytes = N4S1::unit_bytes(n);
  for (size_t i = 0; i < bytes; i++) out[i * height] = i < divide_up(n, 2) ? whole[i] : 0;
  out[(bytes - 1) * height] |= whole[N4S1::kSignVector];
  return bad;
}

struct Unit {
  size_t column, blocks, bytes_before;  // first column; bytes of a row in the units before it
};

}  // namespace

bool pack_n4s1(const Digits& a, size_t group_blocks, uint8_t* out) {
  static const Pairs pairs = make_pairs();
  const size_t padded = padded_rows(a.rows), row_bytes = n4s1_bytes(a, group_blocks);
  const size_t all = blocks(a, N4S1::kK);
  uint64_t bad = 0;
  const auto pack = [&](size_t r, const Unit& unit, size_t height, uint8_t* to) {
    const size_t end = std::min(a.columns, unit.column + N4S1::kK * unit.blocks);
    if (r < a.rows && a.column_stride == 1 && end - unit.column == kUnitColumns) {
      const uint8_t* row = a.data + ptrdiff_t(r) * a.row_stride;
      bad |= pack_unit(pairs, row + unit.column, height, to);
      return;
    }
    uint8_t digits[kUnitColumns];
    for (size_t d = 0; d < kUnitColumns; d++)
      digits[d] = r < a.rows && unit.column + d < end ? a.at(r, unit.column + d) : 1;
    bad |= unit.blocks == N4S1::kBlocks ? pack_unit(pairs, digits, height, to)
                                        : pack_short_unit(pairs, digits, unit.blocks, height, to);
  };
  for (size_t first = 0; first < padded; first += N4S1::kStripRows) {
    const size_t height = std::min(N4S1::kStripRows, padded - first);
    for (size_t b = 0, bytes = 0; b < all;) {
      Unit units[kUnitsAtOnce];
      size_t count = 0;
      for (; count < kUnitsAtOnce && b < all; count++) {
        size_t n = N4S1::kBlocks;
        if (group_blocks) n = std::min({n, all - b, group_blocks - b % group_blocks});
        units[count] = {N4S1::kK * b, n, bytes};
        b += n;
        bytes += N4S1::unit_bytes(n);
      }
      for (size_t i = 0; i < height; i++)
        for (size_t u = 0; u < count; u++)
          pack(first + i, units[u], height,
               out + first * row_bytes + units[u].bytes_before * height + i);
    }
  }
  return bad == 0;
}

}  // namespace rsr
