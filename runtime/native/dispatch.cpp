#include "dispatch.h"

#include <atomic>
#include <stdexcept>

#if defined(RSR_X86)
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#if defined(RSR_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace rsr {
namespace {

#if defined(RSR_X86)
struct Registers {
  uint32_t eax, ebx, ecx, edx;
};

Registers cpuid(uint32_t leaf) {
#if defined(_MSC_VER)
  int r[4];
  __cpuidex(r, static_cast<int>(leaf), 0);
  return {uint32_t(r[0]), uint32_t(r[1]), uint32_t(r[2]), uint32_t(r[3])};
#else
  Registers r{};
  __get_cpuid_count(leaf, 0, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
#endif
}

// The register states that the operating system saves: a feature whose registers it does not save
// is unusable.
uint64_t saved_states() {
  const bool has_xgetbv = cpuid(1).ecx >> 27 & 1;
  if (!has_xgetbv) return 0;
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
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

// Measured on Zen 4 (docs/lab-notes.md); Zen 3 is assumed to be alike. A 512-bit dot product takes
// two cycles, so avx512's lookups are faster than avx512vnni's panels, which run on request only.
// Large dense matrices are read faster row after row.
bool is_zen3_or_zen4() {
  const Registers vendor = cpuid(0), r = cpuid(1);
  const bool is_amd = vendor.ebx == 0x68747541 && vendor.edx == 0x69746e65;  // "Auth" "enti"
  return is_amd && (r.eax >> 8 & 15) + (r.eax >> 20 & 255) == 0x19;
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
#endif

#if !defined(RSR_X86)
bool is_zen3_or_zen4() { return false; }
#endif

bool always() { return true; }
bool never() { return false; }

// Plain C++ first, then what each instruction set does better, up to `isa`.
void fill_table(KernelTable& table, [[maybe_unused]] Isa isa) {
  fill_w16_scalar(table);
  fill_n4s1_scalar(table);
  fill_segments_scalar(table);
  fill_decoder_scalar(table);
  fill_dense_scalar(table);
  fill_probe_scalar(table);
#if defined(RSR_X86)
  if (isa < Isa::avx2) return;
  fill_w16_avx2(table);
  fill_n4s1_i8_avx2(table);
  fill_n4s1_f32_avx2(table);
  fill_small_batch_avx2(table, isa);
  fill_tables_avx2(table, isa);
  fill_segments_avx2(table);
  fill_decoder_avx2(table);
  fill_dense_avx2(table);
  fill_probe_avx2(table);

  if (isa < Isa::avx512) return;
  fill_w16_avx512(table);
  fill_w16_grouped_avx512(table);
  fill_n4s1_avx512(table);
  fill_small_batch_avx512(table);
  fill_tables_avx512(table);
  fill_decoder_avx512(table);
  fill_dense_avx512(table);
  fill_probe_avx512(table);

  if (isa < Isa::avx512vnni) return;
  fill_panels_avx512vnni(table);
  fill_dense_avx512vnni(table);

#if defined(RSR_AMX)
  if (isa < Isa::amx) return;
  fill_attention_amx(table);
  fill_panels_amx(table);
#endif
#endif
}

struct IsaEntry {
  const char* name;
  Isa isa;
  bool (*supported)();
  bool (*is_slower)() = never;  // than the set before it, on this processor
  bool (*enable)() = always;    // asks the system for it
};

// Plainest first.
constexpr IsaEntry kIsas[] = {
    {"scalar", Isa::scalar, always},
#if defined(RSR_X86)
    {"avx2", Isa::avx2, has_avx2},
    {"avx512", Isa::avx512, has_avx512},
    {"avx512vnni", Isa::avx512vnni, has_avx512vnni, is_zen3_or_zen4},
#if defined(RSR_AMX)
    {"amx", Isa::amx, has_amx, never, request_tiles},
#endif
#endif
};
constexpr int kIsaCount = sizeof(kIsas) / sizeof(kIsas[0]);

struct Tables {
  KernelTable table[kIsaCount] = {};
  int supported = 0, best = 0;

  Tables() {
    for (; supported < kIsaCount && kIsas[supported].supported(); supported++) {
      fill_table(table[supported], kIsas[supported].isa);
      table[supported].isa = kIsas[supported].name;
      table[supported].dense.large_in_order = is_zen3_or_zen4();
      if (!kIsas[supported].is_slower()) best = supported;
    }
  }
};

const Tables& tables() {
  static const Tables all;
  return all;
}

std::atomic<const KernelTable*> chosen{nullptr};

const KernelTable& best_granted() {
  int i = tables().best;
  while (!kIsas[i].enable()) i--;  // scalar always succeeds
  return tables().table[i];
}

std::string join(const std::vector<std::string>& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

std::vector<std::string> compiled_isas() {
  std::vector<std::string> names;
  for (int i = kIsaCount; i-- > 0;) names.push_back(kIsas[i].name);
  return names;
}

std::vector<std::string> supported_isas() {
  const Tables& all = tables();
  std::vector<std::string> names = {kIsas[all.best].name};
  for (int i = all.supported; i-- > 0;)
    if (i != all.best) names.push_back(kIsas[i].name);
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

}  // namespace rsr
