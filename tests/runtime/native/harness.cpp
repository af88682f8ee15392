// harness [--bench] [ISA ...]: checks every slot of the kernel table on every instruction set that
// this processor supports (or on those named) against the definition of its result in plain C++,
// with worst-case inputs, around every length at which a kernel changes its course. Integers must
// be exact, floats within the bounds that table.h and the kernels state; guard bytes find writes
// outside of an output, AddressSanitizer reads too. With --bench it also times every slot.
//
// A kernel is found through its slot: a new one needs no change here. A new slot does: the harness
// fails where it does not reach a byte of the table.
//
// With RSR_EMULATE_AMX, "emulated amx" is set amx on tiles in plain C++ (emulated_tiles.h).
#include "harness.h"

#include <algorithm>
#include <cstddef>

#include "dispatch.h"

#if defined(RSR_EMULATE_AMX)
namespace rsr {
// From files of AMX kernels, renamed (CMakeLists.txt).
void fill_panels_emulated(KernelTable& table);
void fill_grouped_panels_emulated(KernelTable& table);
void fill_panels_bf16_emulated(KernelTable& table);
}  // namespace rsr
#endif

namespace harness {

std::vector<int8_t> int8_inputs(size_t n, size_t kind) {
  std::vector<int8_t> x(n);
  for (auto& v : x) {
    const int random = static_cast<int>(below(256)) - 128;
    switch (kind % kInt8Kinds) {
      case 0:
        v = static_cast<int8_t>(random);
        break;
      case 1:
        v = -128;
        break;
      case 2:
        v = 127;
        break;
      case 3:
        v = below(2) ? int8_t{-128} : static_cast<int8_t>(random);
        break;
      default:
        v = 0;
    }
  }
  return x;
}

std::vector<float> float_inputs(size_t n, size_t kind) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> x(n);
  const float constant = static_cast<float>(1 + uniform());
  for (size_t i = 0; i < n; i++) {
    switch (kind % kFloatKinds) {
      case 1:  // all magnitudes
        x[i] = normal() * std::pow(10.0f, static_cast<float>(60 * uniform() - 30));
        break;
      case 2:  // large ones and many that are tiny beside them
        x[i] = i < n / 7 ? 1.0f : std::ldexp(normal(), -24);
        break;
      case 3:  // all alike: some constants take the digits of a fixed-point sum to their ends
      case 8:
      case 9:
        x[i] = constant;
        break;
      case 4:  // denormal
        x[i] = std::ldexp(static_cast<float>(static_cast<int>(below(2001)) - 1000), -149);
        break;
      case 5:  // sums that are just finite
        x[i] = std::numeric_limits<float>::max() / static_cast<float>(4 * n);
        break;
      case 6:
        x[i] = 0;
        break;
      case 10:  // just below a power of two
        x[i] = std::nextafter(2.0f, 0.0f);
        break;
      case 11:  // halves that two bfloat16 numbers round up, and all of them alike
        x[i] = 1 + std::ldexp(1.0f, -9) + std::ldexp(1.0f, -17);
        break;
      case 12:  // as small as bfloat16 tiles take
        x[i] = std::copysign(std::ldexp(static_cast<float>(1 + uniform()), -102), normal());
        break;
      case 13:  // as large as they take
        x[i] = std::ldexp(normal() < 0 ? -1.0f : 1.0f, 127) / static_cast<float>(n);
        break;
      default:
        x[i] = normal();
    }
  }
  if (kind % kFloatKinds == kNotFinite && n > 0) {
    x[below(n)] = pick({kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()});
    x[below(n)] = pick({kInfinity, -kInfinity});
  }
  return x;
}

void Harness::time(const char* slot, const Table& table, double amount, const char* unit,
                   const std::function<void()>& work) {
  if (!is_bench) return;
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  const Clock::time_point start = Clock::now();
  work();
  const size_t repeat = 1 + static_cast<size_t>(2e-5 / (since(start) + 1e-9));
  double best = 1e9;
  for (int round = 0; round < 5 || since(start) < 0.05; round++) {
    const Clock::time_point begin = Clock::now();
    for (size_t i = 0; i < repeat; i++) work();
    best = std::min(best, since(begin) / static_cast<double>(repeat));
  }
  for (size_t t = 0; t < tables.size(); t++) {
    if (&tables[t] != &table) continue;
    Result& result = results_[{slot, t}];
    result.seconds = best, result.amount = amount, result.unit = unit;
  }
}

void Harness::cover(const void* slot, size_t bytes, const Table& table) {
  const size_t first =
      static_cast<const char*>(slot) - reinterpret_cast<const char*>(&table.kernels);
  std::fill_n(covered_ + first, bytes, true);
}

bool Harness::report() {
  bool passed = true;
  std::printf("%-24s %-12s %8s%s\n", "slot", "set", "checks",
              is_bench ? "        us       rate" : "");
  for (const auto& [key, result] : results_) {
    passed = passed && !result.failed;
    std::printf("%-24s %-12s %8zu", key.first.c_str(), tables[key.second].isa.c_str(),
                result.checks);
    if (result.seconds > 0)
      std::printf(" %9.2f %10.2f G %s/s", 1e6 * result.seconds,
                  1e-9 * result.amount / result.seconds, result.unit);
    std::printf("%s\n", result.failed ? "  FAILED" : "");
  }
  for (size_t i = 0; i + sizeof(void*) <= sizeof covered_; i += sizeof(void*)) {
    if (covered_[i]) continue;
    std::printf("the harness does not reach byte %zu of the kernel table\n", i);
    passed = false;
  }
  return passed;
}

void check_probe(Harness& harness) {
  const auto probe = [](const rsr::KernelTable& t) -> auto& { return t.plain_read; };
  for (size_t n : {0, 1, 7, 8, 31, 127, 128, 129, 255, 256, 257, 511, 600}) {
    harness.each("plain_read", probe, [&](auto plain_read, const Table&) {
      Guarded<uint8_t> data(n);
      expect(plain_read(data.data(), n), 0, 0, "the sum of zeros", n);
      for (size_t i = 0; i < n; i++) {
        data[i] = 1;
        if (plain_read(data.data(), n) == 0) throw std::runtime_error("did not read every byte");
        data[i] = 0;
      }
    });
  }
  Guarded<uint8_t> data(1 << 20);
  if (harness.is_bench)
    harness.each("plain_read", probe, [&](auto plain_read, const Table& table) {
      volatile uint64_t sum = 0;
      harness.time("plain_read", table, 1 << 20, "B",
                   [&] { sum = sum + plain_read(data.data(), data.size()); });
    });
}

}  // namespace harness

namespace {

// Lookups in the styles that this processor does not use (tuning.h), after those of avx512.
void add_styles(std::vector<harness::Table>& tables) {
  const rsr::TuningRow in_use = rsr::tuning_in_use();
  for (bool in_registers : {false, true})
    for (bool shifts : {false, true}) {
      rsr::TuningRow other = in_use;
      other.tables_in_registers = in_registers;
      other.shifts = shifts;
      rsr::use_tuning(other);
      const std::string style = std::string(in_registers ? "r" : "m") + (shifts ? "s" : "x");
      tables.insert(tables.begin() + 1, {"avx512 " + style, rsr::kernels()});
    }
  rsr::use_tuning(in_use);
}

}  // namespace

int main(int count, char** arguments) {
  bool is_bench = false;
  std::vector<std::string> wanted;
  for (int i = 1; i < count; i++)
    std::strcmp(arguments[i], "--bench") == 0 ? void(is_bench = true)
                                              : wanted.push_back(arguments[i]);
  std::vector<std::string> isas = rsr::supported_isas();
  std::vector<harness::Table> tables;
  for (const std::string& isa : rsr::compiled_isas()) {
    if (std::find(isas.begin(), isas.end(), isa) == isas.end()) continue;
    rsr::use_isa(isa);
    tables.insert(tables.begin(), {isa, rsr::kernels()});
    if (isa == "avx512") add_styles(tables);
  }
#if defined(RSR_EMULATE_AMX)
  if (std::find(isas.begin(), isas.end(), "avx512vnni") != isas.end()) {
    tables.push_back({"emulated amx", tables.back().kernels});
    rsr::fill_panels_emulated(tables.back().kernels);
    rsr::fill_grouped_panels_emulated(tables.back().kernels);
    rsr::fill_panels_bf16_emulated(tables.back().kernels);
  }
#endif
  for (const std::string& name : wanted)
    if (std::none_of(tables.begin(), tables.end(), [&](auto& t) { return t.isa == name; })) {
      std::printf("no instruction set %s here\n", name.c_str());
      return 2;
    }
  if (!wanted.empty())
    tables.erase(std::remove_if(tables.begin(), tables.end(),
                                [&](auto& t) {
                                  return t.isa != "scalar" &&
                                         std::find(wanted.begin(), wanted.end(), t.isa) ==
                                             wanted.end();
                                }),
                 tables.end());
  harness::Harness harness(tables, is_bench);
  harness::check_ranked(harness);
  harness::check_permuted(harness);
  harness::check_decoder(harness);
  harness::check_delta_net(harness);
  harness::check_dense(harness);
  harness::check_hadamard(harness);
  harness::check_low_rank(harness);
  harness::check_probe(harness);
  std::printf("fastest set: %s\n", isas.front().c_str());
  const bool passed = harness.report();
  if (!is_bench) harness::check_products();
  return passed ? 0 : 1;
}
