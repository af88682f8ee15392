// Checks and times every slot of the kernel table on every instruction set (harness.cpp).
#pragma once
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "table.h"

namespace harness {

// Random numbers, the same on every platform.
inline std::mt19937& rng() {
  static std::mt19937 generator(20260801);
  return generator;
}
inline size_t below(size_t n) { return rng()() % n; }
inline double uniform() { return rng()() / 4294967296.0; }
inline float normal() {  // nearly
  double sum = -6;
  for (int i = 0; i < 12; i++) sum += uniform();
  return static_cast<float>(sum);
}
template <class T>
T pick(std::initializer_list<T> values) {
  return values.begin()[below(values.size())];
}

inline float widen_bf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// Worst cases of inputs, by kind. Kind 0 is random, kind kNotFinite has an infinity and perhaps a
// NaN.
constexpr size_t kInt8Kinds = 5, kFloatKinds = 14, kNotFinite = 7;
std::vector<int8_t> int8_inputs(size_t n, size_t kind);
std::vector<float> float_inputs(size_t n, size_t kind);

#if defined(RSR_SANITIZE)
extern "C" void __asan_poison_memory_region(const volatile void*, size_t);
extern "C" void __asan_unpoison_memory_region(const volatile void*, size_t);
inline void poison(const void* p, size_t n) { __asan_poison_memory_region(p, n); }
inline void unpoison(const void* p, size_t n) { __asan_unpoison_memory_region(p, n); }
#else
inline void poison(const void*, size_t) {}
inline void unpoison(const void*, size_t) {}
#endif

// Aligned memory of n elements between guard bytes, which sanitized code may not touch.
template <class T>
class Guarded {
 public:
  explicit Guarded(size_t n, T fill = T()) : size_(n) {
    memory_ = static_cast<char*>(::operator new(bytes() + 2 * kGuard, std::align_val_t(kGuard)));
    std::memset(memory_, kByte, bytes() + 2 * kGuard);
    for (size_t i = 0; i < n; i++) data()[i] = fill;
    guard(poison);
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() {
    guard(unpoison);
    ::operator delete(memory_, std::align_val_t(kGuard));
  }

  T* data() { return reinterpret_cast<T*>(memory_ + kGuard); }
  T& operator[](size_t i) { return data()[i]; }
  size_t size() const { return size_; }
  size_t bytes() const { return size_ * sizeof(T); }

  // Throws if a guard byte was written.
  void check_guards() {
    guard(unpoison);
    for (size_t i = 0; i < kGuard; i++)
      if (memory_[i] != kByte || memory_[kGuard + bytes() + i] != kByte)
        throw std::runtime_error("wrote outside of its output");
    guard(poison);
  }

 private:
  static constexpr size_t kGuard = 64;
  static constexpr char kByte = 0x5a;

  void guard(void (*change)(const void*, size_t)) {
    change(memory_, kGuard);
    change(memory_ + kGuard + bytes(), kGuard);
  }

  size_t size_;
  char* memory_;
};

struct Table {
  std::string isa;
  rsr::KernelTable kernels;
};

class Harness {
 public:
  Harness(std::vector<Table> given, bool is_bench) : tables(std::move(given)), is_bench(is_bench) {
    const rsr::KernelTable& t = tables[0].kernels;
    cover(&t.isa, sizeof t.isa, tables[0]);
    cover(&t.dense.large_in_order, 1, tables[0]);
  }

  // Calls check(kernel, table) with the slot that get(kernel table) returns, on every instruction
  // set that fills it anew. An exception is a failure of that slot.
  template <class Get, class Check>
  void each(const char* slot, const Get& get, const Check& check) {
    for (size_t t = 0; t < tables.size(); t++) {
      const auto& kernel = get(tables[t].kernels);
      cover(&kernel, sizeof kernel, tables[t]);
      if (is_empty(kernel)) continue;
      if (t > 0 && std::memcmp(&kernel, &get(tables[t - 1].kernels), sizeof kernel) == 0) continue;
      Result& result = results_[{slot, t}];
      if (result.failed) continue;
      try {
        check(kernel, tables[t]);
        result.checks++;
      } catch (const std::exception& error) {
        result.failed = true;
        std::printf("%s of %s: %s\n", slot, tables[t].isa.c_str(), error.what());
      }
    }
  }

  // Times work() for the slot, the minimum of many calls, in --bench. amount: multiply-adds or
  // bytes of a call, in `unit`.
  void time(const char* slot, const Table& table, double amount, const char* unit,
            const std::function<void()>& work);

  // Prints a line per slot and instruction set; whether all passed and every slot was reached.
  bool report();

  const std::vector<Table> tables;  // plain C++ first
  const bool is_bench;

 private:
  struct Result {
    size_t checks = 0;
    bool failed = false;
    double seconds = 0, amount = 0;
    const char* unit = "";
  };

  void cover(const void* slot, size_t bytes, const Table& table);
  template <class Kernel>
  static bool is_empty(const Kernel&) {
    return false;
  }
  template <class X, class Pattern, class Y>
  static bool is_empty(const rsr::BatchKernel<X, Pattern, Y>& batch) {
    return batch.min_vectors == 0;
  }
  template <class X, class Pattern>
  static bool is_empty(const rsr::GroupedBatchKernel<X, Pattern>& batch) {
    return batch.min_vectors == 0;
  }

  std::map<std::pair<std::string, size_t>, Result> results_;
  bool covered_[sizeof(rsr::KernelTable)] = {};
};

// Throws unless |found - expected| <= bound, or both are the same infinity or both NaN.
template <class Found>
void expect(Found found, double expected, double bound, const char* what, size_t i, size_t j = 0) {
  const double value = static_cast<double>(found);
  const bool same = std::isnan(expected) ? std::isnan(value)
                    : std::isinf(expected)
                        ? value == expected
                        : std::isfinite(value) && std::fabs(value - expected) <= bound;
  if (same) return;
  char text[200];
  std::snprintf(text, sizeof text, "%s (%zu, %zu) is %.9g, expected %.9g within %.3g", what, i, j,
                value, expected, bound);
  throw std::runtime_error(text);
}

template <class T>
void expect_same_bits(const T* found, const T* expected, size_t n, const char* what) {
  for (size_t i = 0; i < n; i++)
    if (std::memcmp(found + i, expected + i, sizeof(T)) != 0)
      expect(static_cast<double>(found[i]), static_cast<double>(expected[i]), -1, what, i);
}

void check_ranked(Harness& harness);
void check_permuted(Harness& harness);
void check_decoder(Harness& harness);
void check_delta_net(Harness& harness);
void check_dense(Harness& harness);
void check_hadamard(Harness& harness);
void check_low_rank(Harness& harness);
void check_probe(Harness& harness);
void check_products();  // through the drivers, on several threads; throws

}  // namespace harness
