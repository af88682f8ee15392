// Plain C++. Compilers turn the loops over four lanes into vector instructions.
#include <cstring>

#include "dense/row_kernels.h"
#include "float16.h"

namespace rsr {
namespace {

float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

struct F32 {
  using Bits = uint32_t;
  static float widened(Bits bits) { return from_bits(bits); }
};

struct BF16 {
  using Bits = uint16_t;
  static float widened(Bits bits) { return from_bits(uint32_t(bits) << 16); }
};

struct F16 {
  using Bits = uint16_t;
  static float widened(Bits bits) { return from_half(bits); }
};

template <class T, size_t N>
struct Lanes {
  T lane[N];
};

template <class Type>
struct Float : FloatSums {
  static constexpr size_t kWeightBytes = sizeof(typename Type::Bits), kLanes = 4;
  static constexpr int kRowsAlone = 4, kRows = 4, kVectors = 2;
  using Sum = Lanes<float, kLanes>;

  static Sum start(const float*, size_t) { return {}; }

  static Sum weights(const char* w, size_t count) {
    typename Type::Bits bits[kLanes] = {};
    std::memcpy(bits, w, count * kWeightBytes);
    Sum wide;
    for (size_t i = 0; i < kLanes; i++) wide.lane[i] = Type::widened(bits[i]);
    return wide;
  }

  static Sum inputs(const float* x, size_t count) {
    Sum in = {};
    std::memcpy(in.lane, x, count * sizeof(float));
    return in;
  }

  static Sum add(Sum sum, const Sum& w, const Sum& x) {
    for (size_t i = 0; i < kLanes; i++) sum.lane[i] += w.lane[i] * x.lane[i];
    return sum;
  }

  static float total(const Sum& s) { return (s.lane[0] + s.lane[2]) + (s.lane[1] + s.lane[3]); }
};

struct I8 : QuantizedSums {
  static constexpr size_t kLanes = 4;
  static constexpr int kRowsAlone = 4, kRows = 4, kVectors = 2;
  using Sum = int32_t;
  using Weights = Lanes<int8_t, kLanes>;

  static Sum start(const int8_t*, size_t) { return 0; }

  static Weights weights(const void* w, size_t count) {
    Weights lanes = {};
    std::memcpy(lanes.lane, w, count);
    return lanes;
  }

  static Weights inputs(const int8_t* x, size_t count) { return weights(x, count); }

  static Sum add(Sum sum, const Weights& w, const Weights& x) {
    for (size_t i = 0; i < kLanes; i++) sum += w.lane[i] * x.lane[i];
    return sum;
  }

  static int32_t total(Sum sum) { return sum; }
};

}  // namespace

void fill_dense_scalar(KernelTable& table) {
  table.dense = kDense<Float<F32>, Float<BF16>, Float<F16>, I8>;
}

}  // namespace rsr
