#include <algorithm>
#include <array>
#include <cstdlib>

#include "encode.h"

namespace rsr {
namespace {

constexpr size_t kStrip = 64;                      // rows of a full strip
constexpr size_t kUnitColumns = 24;                // eight column blocks of three
constexpr size_t kUnitsAtOnce = 8;                 // 192 digits of a row: whole cache lines of it
constexpr uint64_t kPadding = 0x0101010101010101;  // eight digits of value 0

// Indexed by two ranks, the left one in bits 0-4, the right one in bits 5-9: their magnitudes in
// the nibbles of the low byte, their signs in bits 9 (left) and 8 (right).
std::array<uint16_t, 1024> make_pairs() {
  std::array<uint16_t, 1024> pairs{};
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
  for (int i = 0; i < 8; i++) value |= uint64_t(digits[i]) << (8 * i);  // one load where it can be
  return value;
}

// The nibbles and signs of the two column blocks in the low six bytes of `digits`. The product's
// byte i is 9 digit[i-2] + 3 digit[i-1] + digit[i] <= 26: no carry, so bytes 2 and 5 are the ranks.
inline unsigned pair(const std::array<uint16_t, 1024>& pairs, uint64_t digits) {
  const uint64_t ranks = digits * 0x090301;
  return pairs[(ranks >> 16 & 31) | (ranks >> 35 & 31 << 5)];
}

// One row of a unit, its 24 digits to five bytes `height` apart. Returns the bits that no digit
// has.
inline uint64_t pack_unit(const std::array<uint16_t, 1024>& pairs, const uint8_t* d, size_t height,
                          uint8_t* out) {
  const uint64_t a = load(d), b = load(d + 8), c = load(d + 16);
  const unsigned p0 = pair(pairs, a), p1 = pair(pairs, a >> 48 | b << 16);
  const unsigned p2 = pair(pairs, b >> 32 | c << 32), p3 = pair(pairs, c >> 16);
  out[0] = static_cast<uint8_t>(p0);
  out[height] = static_cast<uint8_t>(p1);
  out[2 * height] = static_cast<uint8_t>(p2);
  out[3 * height] = static_cast<uint8_t>(p3);
  out[4 * height] =
      static_cast<uint8_t>((p0 >> 8) << 6 | (p1 >> 8) << 4 | (p2 >> 8) << 2 | p3 >> 8);
  constexpr uint64_t kHigh = ~(3 * kPadding);
  // A digit is bad if it has a high bit, or both low ones: 3.
  return ((a | b | c) & kHigh) | (a & a >> 1 & kPadding) | (b & b >> 1 & kPadding) |
         (c & c >> 1 & kPadding);
}

}  // namespace

bool pack_n4s1(const Digits& a, uint8_t* out) {
  static const std::array<uint16_t, 1024> pairs = make_pairs();
  const size_t padded = (a.rows + kLanes - 1) / kLanes * kLanes;
  const size_t units = (blocks(a, 3) + 7) / 8;
  const size_t whole = a.column_stride == 1 ? a.columns / kUnitColumns : 0;
  uint64_t bad = 0;
  for (size_t first = 0; first < padded; first += kStrip) {
    const size_t height = std::min(kStrip, padded - first);
    for (size_t tile = 0; tile < units; tile += kUnitsAtOnce) {
      const size_t end = std::min(units, tile + kUnitsAtOnce);
      for (size_t i = 0; i < height; i++) {
        const size_t r = first + i;
        uint8_t* to = out + 5 * (first * units + tile * height) + i;
        for (size_t u = tile; u < end; u++, to += 5 * height) {
          if (r < a.rows && u < whole) {
            const uint8_t* row = a.data + ptrdiff_t(r) * a.row_stride;
            bad |= pack_unit(pairs, row + kUnitColumns * u, height, to);
          } else {
            uint8_t digits[kUnitColumns];
            for (size_t d = 0; d < kUnitColumns; d++) {
              const size_t c = kUnitColumns * u + d;
              digits[d] = r < a.rows && c < a.columns ? a.at(r, c) : 1;
            }
            bad |= pack_unit(pairs, digits, height, to);
          }
        }
      }
    }
  }
  return bad == 0;
}

}  // namespace rsr
