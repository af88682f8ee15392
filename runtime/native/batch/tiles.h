// Tiles of AMX: sums of up to 16 vectors under 16 rows, from tiles of 64 bytes for each vector and
// 16 steps of 16 rows.
//
// A tile product takes a cycle per vector, so vectors are divided evenly among tiles.
//
// Internal linkage: each file that includes this compiles its own (table.h).
#pragma once
#include <immintrin.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "packing.h"

namespace rsr {
namespace {

constexpr size_t kTileRows = 16;
constexpr size_t kTileSteps = 16;                                       // of a panel in one product
constexpr size_t kTileBytes = 64;                                       // of a row of a tile
constexpr size_t kTileSums = kTileRows * kTileBytes / sizeof(int32_t);  // or float

inline size_t tiles_of(size_t count) { return divide_up(count, kTileRows); }
inline size_t tile_height(size_t count) { return divide_up(count, tiles_of(count)); }

// The operand of LDTILECFG.
struct TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

// Tile registers: sums (vectors, rows), rows of the panel, vectors. Macros, because GCC pastes them
// into assembly.
#define SUMS_00 0
#define SUMS_01 1
#define SUMS_10 2
#define SUMS_11 3
#define ROWS_0 4
#define ROWS_1 5
#define VECTORS_0 6
#define VECTORS_1 7

// GCC does not know that tile instructions read memory: this keeps earlier writes before them.
inline void written_before_tiles_read() { std::atomic_signal_fence(std::memory_order_seq_cst); }

inline void configure_tiles(size_t height, TileConfig& config) {
  config = {};
  config.palette = 1;
  for (int tile = 0; tile < 8; tile++) {
    config.row_bytes[tile] = kTileBytes;
    config.rows[tile] = tile == ROWS_0 || tile == ROWS_1 ? kTileSteps : height;
  }
  written_before_tiles_read();
  _tile_loadconfig(&config);
}

// Begins the tiles of sums, two or four, with those at `from`, or with zeros if it is null.
template <bool kFour, class Sum>
inline void begin_sums(const Sum* from) {
  static_assert(sizeof(Sum) == sizeof(int32_t));
  if (!from) {
    _tile_zero(SUMS_00);
    _tile_zero(SUMS_01);
    if (kFour) {
      _tile_zero(SUMS_10);
      _tile_zero(SUMS_11);
    }
    return;
  }
  _tile_loadd(SUMS_00, from, kTileBytes);
  _tile_loadd(SUMS_01, from + kTileSums, kTileBytes);
  if (kFour) {
    _tile_loadd(SUMS_10, from + 2 * kTileSums, kTileBytes);
    _tile_loadd(SUMS_11, from + 3 * kTileSums, kTileBytes);
  }
}

template <bool kFour, class Sum>
inline void store_sums(Sum* to) {
  static_assert(sizeof(Sum) == sizeof(int32_t));
  _tile_stored(SUMS_00, to, kTileBytes);
  _tile_stored(SUMS_01, to + kTileSums, kTileBytes);
  if (kFour) {
    _tile_stored(SUMS_10, to + 2 * kTileSums, kTileBytes);
    _tile_stored(SUMS_11, to + 3 * kTileSums, kTileBytes);
  }
}

}  // namespace
}  // namespace rsr
