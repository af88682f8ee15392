#include "sampling.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

namespace rsr {
namespace {

// Most distributions have most of their mass in a few weights above this floor.
constexpr double kFloor = 1.0 / 2048;
constexpr size_t kFew = 2048;

// Buckets by the exponent and the first bits of the mantissa: those of a bucket differ by 1/64.
constexpr int kShift = 52 - 6;
constexpr size_t kBuckets = 24 * 64;  // down to 2^-24; smaller weights share the last bucket
constexpr uint64_t kOne = 0x3FF0000000000000;

size_t bucket(double weight) {
  uint64_t bits;
  std::memcpy(&bits, &weight, sizeof bits);
  return std::min<uint64_t>((kOne - bits) >> kShift, kBuckets);
}

// Finds the end of the nucleus in weights that are sorted in place.
//
// before: the sum of all larger weights, `larger` of them. error: of any sum.
std::optional<Nucleus> end_of(std::vector<double>& weights, double before, size_t larger,
                              double enough, double error) {
  std::sort(weights.begin(), weights.end(), std::greater<>());
  double sum = before;
  for (size_t i = 0; i < weights.size(); ++i) {
    const bool is_first = larger == 0 && i == 0;
    if (!is_first && enough - sum < error) return std::nullopt;
    sum += weights[i];
    if (sum < enough) continue;
    if (sum - enough < error) return std::nullopt;
    const auto first = std::find(weights.begin(), weights.end(), weights[i]);
    return Nucleus{weights[i], i + 1 - size_t(first - weights.begin())};
  }
  return std::nullopt;
}

// The entries of a nucleus and their weights, in order; reused, as memory costs more than the work.
struct Kept {
  std::vector<double> weights;
  std::vector<uint32_t> entries;
  size_t count = 0;

  void select(const double* from, size_t n, Nucleus nucleus) {
    if (weights.size() < n) weights.resize(n), entries.resize(n);
    count = 0;
    constexpr size_t kBlock = 16;
    for (size_t start = 0; start < n; start += kBlock) {
      const size_t stop = std::min(start + kBlock, n);
      double largest = from[start];
      for (size_t i = start + 1; i < stop; ++i) largest = std::max(largest, from[i]);
      if (largest < nucleus.smallest) continue;
      for (size_t i = start; i < stop; ++i) {  // without a branch that is often wrong
        weights[count] = from[i];
        entries[count] = static_cast<uint32_t>(i);
        count += from[i] > nucleus.smallest;
        if (from[i] == nucleus.smallest && nucleus.equal > 0) {
          --nucleus.equal;
          ++count;
        }
      }
    }
  }
};

}  // namespace

std::optional<Nucleus> nucleus(const double* weights, size_t count, double enough) {
  // A sum of n weights, in any order, is off by at most n 2^-53 of itself; two are compared.
  const double relative_error = static_cast<double>(count) * 0x1p-52;
  std::vector<double> few;
  few.reserve(kFew);
  double sum = 0.0;
  for (size_t i = 0; i < count && few.size() < kFew; ++i) {
    if (weights[i] >= kFloor) {
      few.push_back(weights[i]);
      sum += weights[i];
    }
  }
  if (few.size() < kFew && sum * (1 - relative_error) > enough) {
    return end_of(few, 0.0, 0, enough, relative_error * sum);
  }

  // Two sums a bucket, as one would wait for its last addition.
  std::vector<double> sums(2 * (kBuckets + 1));
  std::vector<size_t> counts(kBuckets + 1);
  for (size_t i = 0; i < count; ++i) {
    const size_t b = bucket(weights[i]);
    sums[2 * b + i % 2] += weights[i];
    ++counts[b];
  }
  double before = 0.0;
  size_t larger = 0;
  for (size_t b = 0; b < kBuckets; ++b) {
    const double with = before + (sums[2 * b] + sums[2 * b + 1]);
    if (with < enough) {
      before = with;
      larger += counts[b];
      continue;
    }
    few.clear();
    for (size_t i = 0; i < count; ++i) {
      if (bucket(weights[i]) == b) few.push_back(weights[i]);
    }
    return end_of(few, before, larger, enough, relative_error * with);
  }
  return std::nullopt;
}

size_t draw(const double* weights, size_t count, Nucleus nucleus, double random) {
  thread_local Kept kept;
  kept.select(weights, count, nucleus);
  double total = 0.0;
  for (size_t i = 0; i < kept.count; ++i) total += kept.weights[i];
  const double drawn = random * total;
  double sum = 0.0;
  for (size_t i = 0; i < kept.count; ++i) {
    sum += kept.weights[i];
    if (sum > drawn || sum == total) return kept.entries[i];
  }
  return 0;  // of an empty nucleus
}

}  // namespace rsr
