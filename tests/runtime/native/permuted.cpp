// Slots permuted16, permuted32 and bin: int32 arithmetic modulo 2^32, exact.
#include <algorithm>

#include "harness.h"

namespace harness {
namespace {

using rsr::kBatch;
using rsr::kSumLanes;

int32_t any_int() { return static_cast<int32_t>(rng()()); }

template <class Index>
struct Block {
  size_t rows, patterns;
  Guarded<Index> sigma, L;

  Block(size_t rows, size_t patterns)
      : rows(rows), patterns(patterns), sigma(rows), L(patterns + 1) {
    for (size_t i = 0; i < rows; i++) sigma[i] = static_cast<Index>(i);
    std::shuffle(sigma.data(), sigma.data() + rows, rng());
    const size_t kind = below(3);  // segments of random length; all rows in one; many empty
    for (size_t s = 1; s < patterns; s++)
      L[s] = static_cast<Index>(kind == 0   ? below(rows + 1)
                                : kind == 1 ? rows
                                            : below(rows + 1) / 8 * 8);
    L[patterns] = static_cast<Index>(rows);
    std::sort(L.data(), L.data() + patterns + 1);
  }
};

template <class Index, class Get>
void check_index(Harness& harness, const std::string& name, const Get& get) {
  for (size_t rows : {1, 2, 3, 4, 5, 7, 8, 31, 32, 33, 64, 100, 257, 1000})
    for (size_t patterns : {2, 3, 4, 5, 9, 27, 32, 243}) {
      Block<Index> b(rows, patterns);
      Guarded<int32_t> v(rows * kBatch), t(patterns);
      for (size_t i = 0; i < v.size(); i++) v[i] = any_int();
      for (size_t s = 0; s < patterns; s++) t[s] = any_int();
      harness.each((name + ".segment_sums").c_str(),
                   [&](const rsr::KernelTable& k) -> auto& { return get(k).segment_sums; },
                   [&](auto segment_sums, const Table&) {
                     Guarded<int32_t> u(patterns), scratch(kSumLanes + rows);
                     segment_sums(v.data(), b.sigma.data(), b.L.data(), patterns, scratch.data(),
                                  u.data());
                     u.check_guards();
                     scratch.check_guards();
                     for (size_t s = 0; s < patterns; s++) {
                       uint32_t sum = 0;
                       for (size_t i = b.L[s]; i < b.L[s + 1]; i++) sum += v[b.sigma[i]];
                       expect(u[s], static_cast<int32_t>(sum), 0, "segment", s, rows);
                     }
                   });
      harness.each((name + ".segment_sums_batch").c_str(),
                   [&](const rsr::KernelTable& k) -> auto& { return get(k).segment_sums_batch; },
                   [&](auto segment_sums_batch, const Table&) {
                     Guarded<int32_t> u(patterns * kBatch);
                     segment_sums_batch(v.data(), b.sigma.data(), b.L.data(), patterns, u.data());
                     u.check_guards();
                     for (size_t s = 0; s < patterns; s++)
                       for (size_t j = 0; j < kBatch; j++) {
                         uint32_t sum = 0;
                         for (size_t i = b.L[s]; i < b.L[s + 1]; i++)
                           sum += v[b.sigma[i] * kBatch + j];
                         expect(u[s * kBatch + j], static_cast<int32_t>(sum), 0, "segment", s, j);
                       }
                   });
      harness.each((name + ".segment_adds").c_str(),
                   [&](const rsr::KernelTable& k) -> auto& { return get(k).segment_adds; },
                   [&](auto segment_adds, const Table&) {
                     Guarded<int32_t> y(rows), scratch(rows + 1);
                     std::vector<uint32_t> expected(rows);
                     for (size_t r = 0; r < rows; r++) expected[r] = y[r] = any_int();
                     for (size_t s = 0; s < patterns; s++)
                       for (size_t i = b.L[s]; i < b.L[s + 1]; i++) expected[b.sigma[i]] += t[s];
                     segment_adds(t.data(), b.sigma.data(), b.L.data(), patterns, scratch.data(),
                                  y.data());
                     y.check_guards();
                     scratch.check_guards();
                     for (size_t r = 0; r < rows; r++) {
                       expect(y[r], static_cast<int32_t>(expected[r]), 0, "row", r, patterns);
                       expect(scratch[r], 0, 0, "scratch", r);
                     }
                   });
    }
  if (!harness.is_bench) return;
  Block<Index> b(4096, 243);
  Guarded<int32_t> v(b.rows * kBatch), u(b.patterns * kBatch), scratch(kSumLanes + b.rows);
  const auto time = [&](const char* which, const auto& slot_of, double amount, const auto& work) {
    const std::string slot = name + which;
    harness.each(
        slot.c_str(), [&](const rsr::KernelTable& k) -> auto& { return slot_of(get(k)); },
        [&](auto kernel, const Table& table) {
          harness.time(slot.c_str(), table, amount, "row", [&] { work(kernel); });
        });
  };
  const auto sums = [&](auto kernel) {
    std::fill_n(scratch.data(), kSumLanes, 0);
    kernel(v.data(), b.sigma.data(), b.L.data(), b.patterns, scratch.data(), u.data());
  };
  const auto batch = [&](auto kernel) {
    kernel(v.data(), b.sigma.data(), b.L.data(), b.patterns, u.data());
  };
  const auto adds = [&](auto kernel) {
    std::fill_n(scratch.data(), b.rows + 1, 0);
    kernel(u.data(), b.sigma.data(), b.L.data(), b.patterns, scratch.data(), v.data());
  };
  const double rows = static_cast<double>(b.rows);
  time(".segment_sums", [](auto& k) -> auto& { return k.segment_sums; }, rows, sums);
  time(
      ".segment_sums_batch", [](auto& k) -> auto& { return k.segment_sums_batch; }, rows* kBatch,
      batch);
  time(".segment_adds", [](auto& k) -> auto& { return k.segment_adds; }, rows, adds);
}

void check_bin(Harness& harness, int k, size_t patterns) {
  Guarded<int32_t> bin(k * patterns), u(patterns), x(k);
  for (size_t i = 0; i < bin.size(); i++) bin[i] = static_cast<int32_t>(below(5)) - 2;
  for (size_t s = 0; s < patterns; s++) u[s] = any_int();
  for (int j = 0; j < k; j++) x[j] = any_int();
  const double work = static_cast<double>(k * patterns);
  harness.each(
      "bin.multiply", [](const rsr::KernelTable& t) -> auto& { return t.bin.multiply; },
      [&](auto multiply, const Table& table) {
        Guarded<int32_t> y(k);
        multiply(bin.data(), k, patterns, u.data(), y.data());
        y.check_guards();
        for (int j = 0; j < k; j++) {
          uint32_t sum = 0;
          for (size_t s = 0; s < patterns; s++)
            sum += static_cast<uint32_t>(bin[j * patterns + s]) * u[s];
          expect(y[j], static_cast<int32_t>(sum), 0, "digit", j, patterns);
        }
        harness.time("bin.multiply", table, work, "MAC",
                     [&] { multiply(bin.data(), k, patterns, u.data(), y.data()); });
      });
  harness.each(
      "bin.multiply_transposed",
      [](const rsr::KernelTable& t) -> auto& { return t.bin.multiply_transposed; },
      [&](auto multiply, const Table& table) {
        Guarded<int32_t> t(patterns);
        multiply(bin.data(), k, patterns, x.data(), t.data());
        t.check_guards();
        for (size_t s = 0; s < patterns; s++) {
          uint32_t sum = 0;
          for (int j = 0; j < k; j++) sum += static_cast<uint32_t>(bin[j * patterns + s]) * x[j];
          expect(t[s], static_cast<int32_t>(sum), 0, "pattern", s, patterns);
        }
        harness.time("bin.multiply_transposed", table, work, "MAC",
                     [&] { multiply(bin.data(), k, patterns, x.data(), t.data()); });
      });
}

}  // namespace

void check_permuted(Harness& harness) {
  check_index<uint16_t>(harness, "permuted16",
                        [](const rsr::KernelTable& t) -> auto& { return t.permuted16; });
  check_index<uint32_t>(harness, "permuted32",
                        [](const rsr::KernelTable& t) -> auto& { return t.permuted32; });
  for (int k : {1, 2, 3, 5, 8})
    for (size_t patterns : {2, 3, 9, 31, 32, 243}) check_bin(harness, k, patterns);
}

}  // namespace harness
