// batches amx|avx512vnni: products of any number of vectors through the runtime's own driver, with
// that instruction set's kernels for many vectors and no others, against the definition of a
// product. Prints the number of products compared; says what is wrong, and returns 1, at the first
// that differs.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "dispatch.h"
#include "parallel.h"
#include "ranked.h"

namespace {

thread_local std::mt19937 rng(20260801);

int below(int n) { return static_cast<int>(rng() % n); }

struct Matrix {
  size_t rows, columns;
  int k;
  std::vector<int16_t> patterns;  // (k, 32)
  std::vector<uint8_t> index;
  std::vector<int8_t> weights;  // (rows, columns)
};

// What the format says of packing w16 (formats/SPEC.md), with random weights; of more than 32
// patterns, some are listed.
Matrix make(size_t rows, size_t columns, int k, const std::vector<int>& digits) {
  Matrix a{rows, columns, k, std::vector<int16_t>(k * 32), {}, {}};
  const int base = static_cast<int>(digits.size());
  int all = 1;
  for (int d = 0; d < k; d++) all *= base;
  const int patterns = std::min(32, all);
  for (int p = 0; p < patterns; p++)
    for (int d = k, rest = p * all / patterns; d-- > 0; rest /= base)
      a.patterns[d * 32 + p] = static_cast<int16_t>(digits[rest % base]);
  const size_t padded = (rows + 31) / 32 * 32, words = (columns + 3 * k - 1) / (3 * k);
  a.index.resize(padded * words * 2);
  a.weights.resize(rows * columns);
  for (size_t strip = 0; strip < padded; strip += 128) {
    const size_t height = std::min<size_t>(128, padded - strip);
    for (size_t w = 0; w < words; w++)
      for (size_t r = 0; r < height; r++) {
        unsigned word = 0;
        for (int j = 0; j < 3; j++) {
          const int rank = below(patterns);
          word |= rank << (5 * j);
          for (int d = 0; d < k; d++) {
            const size_t column = (w * 3 + j) * k + d;
            if (strip + r < rows && column < columns)
              a.weights[(strip + r) * columns + column] =
                  static_cast<int8_t>(a.patterns[d * 32 + rank]);
          }
        }
        uint8_t* to = &a.index[(strip * words + w * height + r) * 2];
        to[0] = static_cast<uint8_t>(word), to[1] = static_cast<uint8_t>(word >> 8);
      }
  }
  return a;
}

void check(const Matrix& a, size_t count) {
  std::vector<int8_t> x(count * a.columns);
  const int kind = below(4);  // mostly random, or one end of int8
  for (auto& v : x) v = static_cast<int8_t>(kind == 0 ? -128 : kind == 1 ? 127 : below(256) - 128);
  const float scale = 1;
  rsr::RankedIndex index{};
  index.packing = rsr::Packing::w16;
  index.data = a.index.data();
  index.rows = a.rows;
  index.columns = a.columns;
  index.k = a.k;
  index.patterns = a.patterns.data();
  index.scale = &scale;
  index.scale_rows = std::max<size_t>(1, a.rows);
  std::vector<int32_t> y(count * a.rows, 0x5a5a5a5a);
  const rsr::RankedProduct<int32_t> product{&index, y.data()};
  rsr::multiply_i8(&product, 1, x.data(), count);
  for (size_t i = 0; i < count; i++)
    for (size_t r = 0; r < a.rows; r++) {
      int32_t sum = 0;
      for (size_t c = 0; c < a.columns; c++)
        sum += a.weights[r * a.columns + c] * x[i * a.columns + c];
      if (y[i * a.rows + r] == sum) continue;
      std::printf("%zu x %zu, k = %d, %zu vectors: row %zu of vector %zu is %d, expected %d\n",
                  a.rows, a.columns, a.k, count, r, i, y[i * a.rows + r], sum);
      std::exit(1);
    }
}

}  // namespace

namespace rsr {

KernelTable table{};

const KernelTable& kernels() { return table; }

}  // namespace rsr

int main(int, char** arguments) {
  const bool is_amx = std::strcmp(arguments[1], "amx") == 0;
  is_amx ? rsr::fill_panels_amx(rsr::table) : rsr::fill_panels_avx512vnni(rsr::table);
  auto& batch = is_amx ? rsr::table.w16_i8.large_batch : rsr::table.w16_i8.medium_batch;
  batch.min_vectors = 1;  // it is slower with few, and must be right with any number
  int compared = 0;
  const auto check_counts = [&](const Matrix& a, const std::vector<size_t>& counts) {
    for (size_t count : counts) check(a, count), compared++;
  };
  const std::vector<std::vector<int>> alphabets = {{-1, 0, 1}, {-1, 1}, {0, 1}};
  for (const auto& digits : alphabets)
    for (int k = 1; k <= 5; k++) {
      const size_t word = 3 * k, group = 4 * word;
      const size_t block = group * (k == 1 ? 64 : k == 2 ? 32 : 16);
      // Around words, groups, tiles and blocks of inputs; around panels and strips of rows.
      for (size_t columns : {size_t(1), word, word + 1, group, group + 1, 5 * group + 2 * word,
                             block, block + 1, 2 * block + group + 1})
        check_counts(make(1 + below(160), columns, k, digits),
                     {size_t(1 + below(16)), size_t(17 + below(32))});
      for (size_t rows : {1, 31, 32, 33, 64, 96, 127, 128, 129, 160, 300})
        check_counts(make(rows, 1 + below(2 * static_cast<int>(block)), k, digits),
                     {size_t(1 + below(48))});
    }
  std::vector<size_t> counts;  // every shape of tiles
  for (size_t count = 1; count <= 66; count++) counts.push_back(count);
  check_counts(make(40, 100, 3, alphabets[0]), counts);
  check_counts(make(40, 100, 3, alphabets[0]),
               {batch.max_vectors - 1, batch.max_vectors, batch.max_vectors + 1});
  // On several threads, and from several at once.
  rsr::set_num_threads(3);
  const Matrix large = make(1500, 3000, 3, alphabets[0]);
  check_counts(large, {17, 33});
  std::thread other([&] { check(large, 20); });
  check(large, 40);
  other.join();
  compared += 2;
  std::printf("%d\n", compared);
}
