// The eight tile registers of AMX in plain C++, as strict as the processor and stricter: put before
// a source file with -include, it takes the place of the intrinsics. What the processor would
// refuse, or what no sound program does, ends the program with a message.
//
// After Intel's manual, "Intel AMX instruction set": LDTILECFG, TILELOADD, TILESTORED, TDPBSSD,
// TDPBF16PS.
#pragma once
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

// Products stay within their tiles and take most of the time, so they are compiled for speed even
// where the kernels are sanitized.
#if defined(__GNUC__) && !defined(__clang__)
#define RSR_PRODUCT __attribute__((no_sanitize("address", "undefined"), optimize("O3"))) inline
#else
#define RSR_PRODUCT inline
#endif

namespace emulated {
namespace {

struct Tile {
  int rows, row_bytes;  // 0: not configured
  alignas(64) int8_t bytes[16][64];
};

struct Registers {
  bool configured = false;
  Tile tile[8] = {};

  ~Registers() {  // of a thread that ends
    if (configured) std::fprintf(stderr, "tiles were not released\n"), std::abort();
  }
};

thread_local Registers registers;

inline void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "tiles: %s\n", what);
  std::abort();
}

inline Tile& tile(int number) {
  require(registers.configured, "used before LDTILECFG or after TILERELEASE");
  require(0 <= number && number < 8, "there are eight");
  Tile& t = registers.tile[number];
  require(t.rows > 0, "one that is not configured was used");
  return t;
}

inline void load_config(const void* memory) {
  require(!registers.configured, "LDTILECFG before TILERELEASE");
  const uint8_t* byte = static_cast<const uint8_t*>(memory);
  require(byte[0] == 1, "palette must be 1");
  for (int i = 1; i < 16; i++) require(byte[i] == 0, "start row and reserved bytes must be 0");
  for (int i = 0; i < 16; i++) {
    uint16_t row_bytes;
    std::memcpy(&row_bytes, byte + 16 + 2 * i, 2);
    const uint8_t rows = byte[48 + i];
    require(rows <= 16 && row_bytes <= 64, "at most 16 rows of 64 bytes");
    require((rows == 0) == (row_bytes == 0), "rows without bytes, or bytes without rows");
    require(i < 8 || rows == 0, "palette 1 has eight");
    if (i < 8) registers.tile[i] = {rows, row_bytes, {}};
  }
  registers.configured = true;
}

inline void release() {
  require(registers.configured, "TILERELEASE without LDTILECFG");
  registers.configured = false;
}

inline void zero(int number) {
  Tile& t = tile(number);
  std::memset(t.bytes, 0, sizeof t.bytes);
}

inline void load(int number, const void* memory, size_t stride) {
  Tile& t = tile(number);
  std::memset(t.bytes, 0, sizeof t.bytes);
  for (int r = 0; r < t.rows; r++)
    std::memcpy(t.bytes[r], static_cast<const char*>(memory) + r * stride, t.row_bytes);
}

inline void store(int number, void* memory, size_t stride) {
  const Tile& t = tile(number);
  for (int r = 0; r < t.rows; r++)
    std::memcpy(static_cast<char*>(memory) + r * stride, t.bytes[r], t.row_bytes);
}

inline void check_shapes(int sums, int a, int b) {
  const Tile &c = tile(sums), &s = tile(a), &t = tile(b);
  require(sums != a && sums != b && a != b, "a product wants three different ones");
  require(c.row_bytes % 4 == 0 && s.row_bytes % 4 == 0 && t.row_bytes % 4 == 0, "not whole sums");
  require(c.rows == s.rows && c.row_bytes == t.row_bytes && s.row_bytes == 4 * t.rows,
          "the shapes of a product do not match");
}

// sums[m][n] += a[m][4 i + j] * b[i][4 n + j], signed bytes, 32-bit sums that wrap.
RSR_PRODUCT void multiply_add(int sums, int a, int b) {
  check_shapes(sums, a, b);
  Tile &c = tile(sums), &s = tile(a), &t = tile(b);
  for (int m = 0; m < c.rows; m++)
    for (int n = 0; n < c.row_bytes / 4; n++) {
      uint32_t sum;
      std::memcpy(&sum, &c.bytes[m][4 * n], 4);
      for (int i = 0; i < t.rows; i++)
        for (int j = 0; j < 4; j++)
          sum += static_cast<uint32_t>(s.bytes[m][4 * i + j] * t.bytes[i][4 * n + j]);
      std::memcpy(&c.bytes[m][4 * n], &sum, 4);
    }
}

// Subnormal numbers are zeros.
RSR_PRODUCT float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

// The bfloat16 numbers of a tile.
struct Numbers {
  float row[16][32];

  RSR_PRODUCT explicit Numbers(const Tile& t) {
    for (int r = 0; r < 16; r++)
      for (int i = 0; i < 32; i++) {
        uint16_t high;
        std::memcpy(&high, t.bytes[r] + 2 * i, 2);
        const uint32_t bits = static_cast<uint32_t>(high) << 16;
        std::memcpy(&row[r][i], &bits, 4);
        row[r][i] = flushed(row[r][i]);
      }
  }
};

// sums[m][n] += a[m][2 i + j] * b[i][2 n + j], bfloat16: for each j a chain of fused multiply-adds
// from zero, then the sum of both, which is added. Each rounds to the nearest float32, half to
// even.
RSR_PRODUCT void multiply_add_bf16(int sums, int a, int b) {
  check_shapes(sums, a, b);
  Tile& c = tile(sums);
  const Numbers s(tile(a)), t(tile(b));
  for (int m = 0; m < c.rows; m++) {
    float chains[32] = {};
    for (int i = 0; i < tile(b).rows; i++)
      for (int n = 0; n < 32; n++)
        chains[n] = flushed(std::fma(s.row[m][2 * i + n % 2], t.row[i][n], chains[n]));
    for (int n = 0; n < c.row_bytes / 4; n++) {
      float sum;
      std::memcpy(&sum, &c.bytes[m][4 * n], 4);
      sum = flushed(flushed(sum) + flushed(chains[2 * n] + chains[2 * n + 1]));
      std::memcpy(&c.bytes[m][4 * n], &sum, 4);
    }
  }
}

}  // namespace
}  // namespace emulated

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbssd
#undef _tile_dpbf16ps
#define _tile_loadconfig(config) emulated::load_config(config)
#define _tile_release() emulated::release()
#define _tile_zero(tile) emulated::zero(tile)
#define _tile_loadd(tile, base, stride) emulated::load(tile, base, stride)
#define _tile_stored(tile, base, stride) emulated::store(tile, base, stride)
#define _tile_dpbssd(sums, a, b) emulated::multiply_add(sums, a, b)
#define _tile_dpbf16ps(sums, a, b) emulated::multiply_add_bf16(sums, a, b)
