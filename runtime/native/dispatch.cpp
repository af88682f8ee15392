#include "dispatch.h"

#include <atomic>
#include <stdexcept>

#if defined(RSR_X86)
#include "x86_cpuid.h"
#if defined(_MSC_VER)
#include <intrin.h>
#endif
#if defined(RSR_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(RSR_ARM64)
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#endif
#endif

namespace rsr {
namespace {

#if defined(RSR_X86)
// The register states that the operating system saves: a feature whose registers it does not save
// is unusable.
uint64_t saved_states() {
  const bool has_xgetbv = cpuid(1).ecx >> 27 & 1;
  if (!has_xgetbv) return 0;
#if defined(_MSC_VER) && !defined(__clang__)
  return _xgetbv(0);
#else  // clang-cl too: its _xgetbv needs a flag
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t(high) << 32 | low;
#endif
}

bool has_avx2() {
  constexpr uint64_t kYmm = 0x06;
  constexpr uint32_t kFeatures = 1u << 12 | 1u << 29;  // FMA, F16C
  return (saved_states() & kYmm) == kYmm && (cpuid(1).ecx & kFeatures) == kFeatures &&
         (cpuid(7).ebx >> 5 & 1);
}

bool has_avx512() {
  constexpr uint64_t kZmm = 0xe6;
  constexpr uint32_t kFeatures = 1u << 16 | 1u << 30 | 1u << 31;  // F, BW, VL
  return has_avx2() && (saved_states() & kZmm) == kZmm && (cpuid(7).ebx & kFeatures) == kFeatures;
}

bool has_avx512vnni() {
  constexpr uint32_t kFeatures = 1u << 1 | 1u << 11;  // VBMI, VNNI
  return has_avx512() && (cpuid(7).ecx & kFeatures) == kFeatures;
}

#if defined(RSR_AMX)
// Linux saves tile registers only for a process that has asked for them (arch/x86/xstate.rst), once
// for all its threads. use_isa() and kernels() ask; has_amx() only finds out.
constexpr int kTileData = 18;

bool has_amx() {
  constexpr uint64_t kTiles = 3u << 17;
  constexpr uint32_t kFeatures = 1u << 22 | 1u << 24 | 1u << 25;  // AMX-BF16, TILE, INT8
  constexpr int kGetSupported = 0x1021;
  uint64_t states = 0;
  return has_avx512vnni() && (saved_states() & kTiles) == kTiles &&
         (cpuid(7).edx & kFeatures) == kFeatures &&
         syscall(SYS_arch_prctl, kGetSupported, &states) == 0 && (states >> kTileData & 1);
}

bool request_tiles() {
  constexpr int kRequestPermission = 0x1023;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif
#elif defined(RSR_ARM64)
// NEON is part of every aarch64 processor; Linux, macOS and Windows say what else there is.
#if defined(__linux__)
bool has_dotprod() {
  constexpr unsigned long kDotProducts = 1ul << 20;  // HWCAP_ASIMDDP
  return getauxval(AT_HWCAP) & kDotProducts;
}
[[maybe_unused]] bool has_i8mm() {
  constexpr unsigned long kMatrixProducts = 1ul << 13;  // HWCAP2_I8MM
  return getauxval(AT_HWCAP2) & kMatrixProducts;
}
#elif defined(__APPLE__)
bool has_feature(const char* name) {
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}
bool has_dotprod() { return has_feature("hw.optional.arm.FEAT_DotProd"); }
[[maybe_unused]] bool has_i8mm() { return has_feature("hw.optional.arm.FEAT_I8MM"); }
#elif defined(_WIN32)
// By number: older headers lack the names.
bool has_dotprod() {
  return IsProcessorFeaturePresent(43);  // PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE
}
[[maybe_unused]] bool has_i8mm() {
  return IsProcessorFeaturePresent(66);  // PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE
}
#else
bool has_dotprod() { return false; }
[[maybe_unused]] bool has_i8mm() { return false; }
#endif
#endif

bool always() { return true; }

// Plain C++ first, then what each instruction set does better, up to `isa`.
void fill_table(KernelTable& table, [[maybe_unused]] Isa isa) {
  fill_w16_scalar(table);
  fill_n4s1_scalar(table);
  fill_segments_scalar(table);
  fill_decoder_scalar(table);
  fill_dense_scalar(table);
  fill_hadamard_scalar(table);
  fill_probe_scalar(table);
#if defined(RSR_X86)
  if (isa < Isa::avx2) return;
  fill_w16_avx2(table);
  fill_w16_grouped_avx2(table);
  fill_n4s1_i8_avx2(table);
  fill_n4s1_f32_avx2(table);
  fill_small_batch_avx2(table, isa);
  fill_tables_avx2(table, isa);
  fill_segments_avx2(table);
  fill_decoder_avx2(table);
  fill_dense_avx2(table);
  fill_hadamard_avx2(table);
  fill_probe_avx2(table);

  if (isa < Isa::avx512) return;
  fill_w16_avx512(table);
  fill_w16_grouped_avx512(table);
  fill_n4s1_avx512(table);
  fill_small_batch_avx512(table);
  fill_tables_avx512(table);
  fill_decoder_avx512(table);
  fill_dense_avx512(table);
  fill_hadamard_avx512(table);
  fill_probe_avx512(table);

  if (isa < Isa::avx512vnni) return;
  fill_panels_avx512vnni(table);
  fill_grouped_panels_avx512vnni(table);
  fill_dense_avx512vnni(table);

#if defined(RSR_AMX)
  if (isa < Isa::amx) return;
  fill_panels_amx(table);
  fill_grouped_panels_amx(table);
  fill_panels_bf16_amx(table);
#endif
#elif defined(RSR_ARM64)
  if (isa < Isa::neon) return;
  fill_w16_neon(table);
  fill_tables_neon(table, isa);
  fill_segments_neon(table);
  fill_n4s1_i8_neon(table);
  fill_n4s1_f32_neon(table);
  fill_decoder_neon(table);
  fill_dense_neon(table);
  fill_hadamard_neon(table);
  fill_probe_neon(table);

  if (isa < Isa::neon_dotprod) return;
  fill_panels_neon_dotprod(table);
  fill_dense_neon_dotprod(table);

#if defined(RSR_I8MM)
  if (isa < Isa::neon_i8mm) return;
  fill_panels_neon_i8mm(table);
#endif
#endif
}

struct IsaEntry {
  const char* name;
  Isa isa;
  bool (*supported)();
  bool (*enable)() = always;  // asks the system for it
};

// Plainest first.
constexpr IsaEntry kIsas[] = {
    {"scalar", Isa::scalar, always},
#if defined(RSR_X86)
    {"avx2", Isa::avx2, has_avx2},
    {"avx512", Isa::avx512, has_avx512},
    {"avx512vnni", Isa::avx512vnni, has_avx512vnni},
#if defined(RSR_AMX)
    {"amx", Isa::amx, has_amx, request_tiles},
#endif
#elif defined(RSR_ARM64)
    {"neon", Isa::neon, always},
    {"neon_dotprod", Isa::neon_dotprod, has_dotprod},
#if defined(RSR_I8MM)
    {"neon_i8mm", Isa::neon_i8mm, has_i8mm},
#endif
#endif
};
constexpr int kIsaCount = sizeof(kIsas) / sizeof(kIsas[0]);

// Calls body(name, kernel) for each batch kernel of a table.
template <class Body>
void for_each_batch(KernelTable& table, const Body& body) {
  const auto each = [&](const std::string& name, auto& kernels) {
    body(name + ".small_batch", kernels.small_batch);
    body(name + ".medium_batch", kernels.medium_batch);
    body(name + ".large_batch", kernels.large_batch);
    body(name + ".small_grouped_batch", kernels.small_grouped_batch);
    body(name + ".large_grouped_batch", kernels.large_grouped_batch);
  };
  each("w16_i8", table.w16_i8);
  each("w16_f32", table.w16_f32);
  each("n4s1_i8", table.n4s1_i8);
  each("n4s1_f32", table.n4s1_f32);
}

struct Tables {
  KernelTable table[kIsaCount] = {};
  int supported = 0;
  TuningRow row = tuning_row(this_processor());

  Tables() {
    tuning = row;
    while (supported < kIsaCount && kIsas[supported].supported()) supported++;
    fill();
  }

  // As `row` says.
  void fill() {
    for (int i = 0; i < supported; i++) {
      table[i] = {};
      fill_table(table[i], kIsas[i].isa);
      table[i].isa = kIsas[i].name;
      table[i].dense.large_in_order = tuning.dense_in_order;
      for (const Threshold& t : row.thresholds)
        if (t.isa == table[i].isa)
          for_each_batch(table[i], [&](const std::string& slot, auto& batch) {
            if (slot != t.slot || batch.min_vectors == 0) return;
            batch.min_vectors = t.min_vectors;
            batch.max_k = t.max_k;
          });
    }
  }
};

Tables& tables() {
  static Tables all;
  return all;
}

std::atomic<const KernelTable*> chosen{nullptr};

const KernelTable& best_granted() {
  int i = tables().supported - 1;
  while (!kIsas[i].enable()) i--;  // scalar always succeeds
  return tables().table[i];
}

std::string join(const std::vector<std::string>& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

Tuning tuning;

std::vector<std::string> compiled_isas() {
  std::vector<std::string> names;
  for (int i = kIsaCount; i-- > 0;) names.push_back(kIsas[i].name);
  return names;
}

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (int i = tables().supported; i-- > 0;) names.push_back(kIsas[i].name);
  return names;
}

const KernelTable& kernels() {
  const KernelTable* table = chosen.load(std::memory_order_acquire);
  if (table) return *table;
  static const KernelTable& best = best_granted();
  return best;
}

void use_isa(const std::string& name) {
  for (int i = 0; i < kIsaCount; i++) {
    if (name != kIsas[i].name) continue;
    if (i >= tables().supported)
      throw std::invalid_argument("this processor does not support instruction set '" + name +
                                  "'; it supports " + join(supported_isas()));
    if (!kIsas[i].enable())
      throw std::invalid_argument("the system does not grant instruction set '" + name +
                                  "' to this process");
    chosen.store(&tables().table[i], std::memory_order_release);
    return;
  }
  throw std::invalid_argument("unknown instruction set '" + name + "'; this build has " +
                              join(compiled_isas()));
}

const TuningRow& tuning_in_use() { return tables().row; }

void use_tuning(const TuningRow& row) {
  Tables& all = tables();
  all.row = row;
  tuning = row;
  all.fill();
}

std::vector<Threshold> thresholds() {
  std::vector<Threshold> found;
  KernelTable table = kernels();
  for_each_batch(table, [&](const std::string& slot, const auto& batch) {
    if (batch.min_vectors != 0) found.push_back({table.isa, slot, batch.min_vectors, batch.max_k});
  });
  return found;
}

}  // namespace rsr
