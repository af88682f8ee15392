// One vector, packing w16, AVX2, which has no lookup of 32 words: tables are looked up in bytes and
// halves.
//
// int8: a table is stored as low bytes and high bytes (w16_avx2.h). Interleaving low and high bytes
// restores the int16 sums in row order.
// float32: four vpermps of eight entries, selected by bits 3 and 4 of the rank; of an index with
// few patterns two.
//
// Per word column and 32 rows (96 k multiply-adds), with more than 16 patterns:
//   int8      12 vpshufb, 12 vbroadcasti128 (shared by up to 128 rows), 6 vpand, 6 vpaddb, 6 vpor,
//             6 vpaddw, 4 vpsrlw, 3 vpackuswb, 6 vpunpck. Without the loads, 49 operations on three
//             ports: 16 cycles on Sapphire Rapids.
//   float32   48 vpermps, 36 vblendvps, 24 vpslld, 10 vpsrld, 12 vaddps. vpermps alone takes 48
//             cycles on Sapphire Rapids.
#include "vector/w16_avx2.h"

namespace rsr {
namespace {

constexpr size_t kTableBytesI8 = sizeof(int16_t) * kPatterns;  // of a column block
constexpr size_t kTableBytesF32 = sizeof(float) * kPatterns;

// A table: 32 low bytes, then 32 high bytes, entry by entry.
void build_tables_i8(const int8_t* x, const int16_t* patterns, int k, size_t blocks, void* tables) {
  const __m256i bytes = _mm256_set1_epi16(255);
  char* t = static_cast<char*>(tables);
  for (size_t b = 0; b < blocks; b++, x += k, t += kTableBytesI8) {
    __m256i v0 = _mm256_setzero_si256(), v1 = v0;
    for (int d = 0; d < k; d++) {
      const __m256i xd = _mm256_set1_epi16(x[d]);
      v0 = _mm256_add_epi16(v0, _mm256_mullo_epi16(xd, load(patterns + d * kPatterns)));
      v1 = _mm256_add_epi16(v1, _mm256_mullo_epi16(xd, load(patterns + d * kPatterns + 16)));
    }
    const __m256i low =
        _mm256_packus_epi16(_mm256_and_si256(v0, bytes), _mm256_and_si256(v1, bytes));
    const __m256i high = _mm256_packus_epi16(_mm256_srli_epi16(v0, 8), _mm256_srli_epi16(v1, 8));
    store(t, _mm256_permute4x64_epi64(low, 0xd8));  // undo the lane-wise packing
    store(t + 32, _mm256_permute4x64_epi64(high, 0xd8));
  }
}

// Adds the table entries of 32 rows to two int16 sums; w0 and w1 hold the ranks of rows 0-15 and
// 16-31 in their low bits.
template <bool HasFewPatterns>
inline void add_entries(__m256i w0, __m256i w1, const char* t, __m256i* sums) {
  const Lookup<HasFewPatterns> lookup(w0, w1);
  const __m256i low = lookup(t), high = lookup(t + 32);
  sums[0] = _mm256_add_epi16(sums[0], _mm256_unpacklo_epi8(low, high));
  sums[1] = _mm256_add_epi16(sums[1], _mm256_unpackhi_epi8(low, high));
}

// Adds the int16 sums of 16 R rows to int32 sums.
template <int R>
inline void add_widened(const __m256i (&sums)[R], int32_t* y) {
  for (int i = 0; i < R; i++, y += 16) {
    const __m256i low = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(sums[i]));
    const __m256i high = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(sums[i], 1));
    store(y, _mm256_add_epi32(load(y), low));
    store(y + 8, _mm256_add_epi32(load(y + 8), high));
  }
}

// Bound: an int16 sum takes the entries of columns_per_widen columns (packing.h), then it is
// widened.
template <bool HasFewPatterns, int R>  // row units
void lookup_i8(const RankedRows& rows, const void* tables, int32_t* y) {
  const uint16_t* words = words_of(rows);
  const size_t height = strip_height<W16>(rows.end);
  const char* t = static_cast<const char*>(tables);
  for (int r = 0; r < 32 * R; r++) y[r] = 0;
  for (size_t g = 0; g < rows.columns;) {
    const size_t stop = min(rows.columns, g + rows.columns_per_widen);
    __m256i sums[2 * R];
    for (auto& sum : sums) sum = _mm256_setzero_si256();
    for (; g < stop; g++, words += height, t += W16::kBlocks * kTableBytesI8) {
      for (int r = 0; r < R; r++) {
        prefetch(words + 32 * r);
        const __m256i w0 = load(words + 32 * r), w1 = load(words + 32 * r + 16);
        for (int i = 0; i < 3; i++)
          add_entries<HasFewPatterns>(_mm256_srli_epi16(w0, 5 * i), _mm256_srli_epi16(w1, 5 * i),
                                      t + kTableBytesI8 * i, sums + 2 * r);
      }
    }
    add_widened(sums, y);
  }
}

void lookup_i8_any(const RankedRows& rows, const void* tables, int32_t* y) {
  with_few_patterns(rows, [&](auto few) {
    with_units<W16>(rows, [&](auto R) { lookup_i8<few, R>(rows, tables, y); });
  });
}

void build_tables_f32(const float* x, const float* patterns, int k, size_t blocks, void* tables) {
  float* t = static_cast<float*>(tables);
  for (size_t b = 0; b < blocks; b++, x += k, t += kPatterns) {
    __m256 v[4];
    for (auto& part : v) part = _mm256_setzero_ps();
    for (int d = k; d-- > 0;)
      for (int i = 0; i < 4; i++)
        v[i] = _mm256_fmadd_ps(_mm256_set1_ps(x[d]),
                               _mm256_loadu_ps(patterns + d * kPatterns + 8 * i), v[i]);
    for (int i = 0; i < 4; i++) _mm256_storeu_ps(t + 8 * i, v[i]);
  }
}

template <bool HasFewPatterns>
struct TableF32 {
  static constexpr int kParts = HasFewPatterns ? 2 : 4;
  __m256 part[kParts];

  explicit TableF32(const float* t) {
    for (int i = 0; i < kParts; i++) part[i] = _mm256_loadu_ps(t + 8 * i);
  }

  // The entry of the rank in the low five bits of each 32-bit lane.
  __m256 operator[](__m256i rank) const {
    const __m256 bit3 = _mm256_castsi256_ps(_mm256_slli_epi32(rank, 28));
    const __m256 lower = _mm256_blendv_ps(_mm256_permutevar8x32_ps(part[0], rank),
                                          _mm256_permutevar8x32_ps(part[1], rank), bit3);
    const __m256 bit4 = _mm256_castsi256_ps(_mm256_slli_epi32(rank, 27));
    __m256 upper = _mm256_setzero_ps();
    if constexpr (!HasFewPatterns)
      upper = _mm256_blendv_ps(_mm256_permutevar8x32_ps(part[2], rank),
                               _mm256_permutevar8x32_ps(part[3], rank), bit3);
    return _mm256_blendv_ps(lower, upper, bit4);
  }
};

// The sums of 16 rows in row order, in two halves.
inline void in_row_order(__m256 even, __m256 odd, __m256* halves) {
  const __m256 low = _mm256_unpacklo_ps(even, odd);   // rows 0-3 and 8-11
  const __m256 high = _mm256_unpackhi_ps(even, odd);  // rows 4-7 and 12-15
  halves[0] = _mm256_permute2f128_ps(low, high, 0x20);
  halves[1] = _mm256_permute2f128_ps(low, high, 0x31);
}

// A 32-bit lane holds the words of rows 2i (low half) and 2i + 1 (high half).
template <bool HasFewPatterns>
void lookup_f32(const RankedRows& rows, const void* tables, float* y) {
  const size_t height = strip_height<W16>(rows.end);
  const uint16_t* words = words_of(rows);
  for (size_t r = 0, count = rows.last - rows.first; r < count; r += 32) {
    const float* t = static_cast<const float*>(tables);
    const uint16_t* w = words + r;
    __m256 even[2], odd[2];
    for (int h = 0; h < 2; h++) even[h] = odd[h] = _mm256_setzero_ps();
    for (size_t g = 0; g < rows.columns; g++, w += height) {
      if (r == 0)  // the other passes find the strip in L2
        for (size_t line = 0; line < count; line += 32) prefetch(w + line);
      const __m256i w0 = load(w), w1 = load(w + 16);
      for (int i = 0; i < 3; i++, t += kPatterns) {
        const TableF32<HasFewPatterns> table(t);
        even[0] = _mm256_add_ps(even[0], table[_mm256_srli_epi32(w0, 5 * i)]);
        odd[0] = _mm256_add_ps(odd[0], table[_mm256_srli_epi32(w0, 16 + 5 * i)]);
        even[1] = _mm256_add_ps(even[1], table[_mm256_srli_epi32(w1, 5 * i)]);
        odd[1] = _mm256_add_ps(odd[1], table[_mm256_srli_epi32(w1, 16 + 5 * i)]);
      }
    }
    __m256 sums[4];
    for (int h = 0; h < 2; h++) in_row_order(even[h], odd[h], sums + 2 * h);
    for (int i = 0; i < 4; i++) _mm256_storeu_ps(y + r + 8 * i, sums[i]);
  }
}

void lookup_f32_any(const RankedRows& rows, const void* tables, float* y) {
  with_few_patterns(rows, [&](auto few) { lookup_f32<few>(rows, tables, y); });
}

}  // namespace

void fill_w16_avx2(KernelTable& table) {
  table.w16_i8.vector = {kTableBytesI8, 0, build_tables_i8, lookup_i8_any};
  table.w16_f32.vector = {kTableBytesF32, 0, build_tables_f32, lookup_f32_any};
}

}  // namespace rsr
