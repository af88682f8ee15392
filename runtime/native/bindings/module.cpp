// The Python module: shapes, dtypes, contiguity, GIL; no arithmetic. rsr_runtime checks
// permutations and segment lists before it passes arrays on; any rank is a valid lookup.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>

#include "bindings/program.h"
#include "decoder/activations.h"
#include "dispatch.h"
#include "huge_pages.h"
#include "parallel.h"
#include "sampling.h"

using namespace nb::literals;

namespace {

void quantize_i8(const Array<const float, 2>& x, const Array<int8_t, 2>& q,
                 const Array<float, 2>& s) {
  const size_t count = x.shape(0), n = x.shape(1);
  require(q.shape(0) == count && q.shape(1) == n && s.shape(0) == count && s.shape(1) == 1,
          "q must have the shape of x, s (count, 1)");
  without_gil([&] { rsr::quantize_i8(x.data(), count, n, q.data(), s.data()); });
}

void quantize_groups_i8(const Array<const float, 2>& x, size_t group_columns,
                        const Array<int8_t, 2>& q, const Array<float, 2>& steps) {
  const size_t count = x.shape(0), n = x.shape(1);
  require(group_columns > 0, "a group must have columns");
  require(q.shape(0) == count && q.shape(1) == n && steps.shape(0) == count &&
              steps.shape(1) == rsr::divide_up(n, group_columns),
          "q must have the shape of x, steps (count, groups)");
  without_gil(
      [&] { rsr::quantize_groups_i8(x.data(), count, n, group_columns, q.data(), steps.data()); });
}

uint64_t plain_read(const Array<const uint8_t, 1>& data) {
  uint64_t sum = 0;
  without_gil([&] { sum = rsr::kernels().plain_read(data.data(), data.nbytes()); });
  return sum;
}

// For benchmarks/tune.py and for tests.
void bind_tuning(nb::module_& m) {
  using rsr::PrefetchDistances;
  using rsr::Threshold;
  using rsr::TuningRow;
  nb::class_<PrefetchDistances>(m, "PrefetchDistances", "Bytes ahead of the index that is read.")
      .def(nb::init<size_t, size_t>(), "l2"_a, "l1"_a)
      .def_rw("l2", &PrefetchDistances::l2)
      .def_rw("l1", &PrefetchDistances::l1);
  nb::class_<Threshold>(m, "Threshold", "Vectors from which a batch kernel is used.")
      .def(nb::init<std::string, std::string, size_t, int>(), "isa"_a, "slot"_a, "min_vectors"_a,
           "max_k"_a = rsr::kMaxK)
      .def_ro("isa", &Threshold::isa)
      .def_ro("slot", &Threshold::slot)
      .def_ro("min_vectors", &Threshold::min_vectors)
      .def_ro("max_k", &Threshold::max_k);
  nb::class_<TuningRow>(m, "Tuning", "Constants that depend on the processor (tuning.h).")
      .def(nb::init<const TuningRow&>(), "other"_a)
      .def_rw("name", &TuningRow::name)
      .def_rw("avx2", &TuningRow::avx2)
      .def_rw("avx512", &TuningRow::avx512)
      .def_rw("tables_in_registers", &TuningRow::tables_in_registers)
      .def_rw("shifts", &TuningRow::shifts)
      .def_rw("dense_in_order", &TuningRow::dense_in_order)
      .def_rw("thresholds", &TuningRow::thresholds);
  m.def("tuning", [] { return rsr::tuning_in_use(); }, "The constants in use.");
  m.def("tuning_rows", &rsr::tuning_rows,
        "Those of each family of processors; the last is the default.");
  m.def(
      "tuning_row",
      [](const std::string& vendor, unsigned family) {
        return rsr::tuning_row({vendor, family, 0});
      },
      "vendor"_a, "family"_a, "Those of a processor. vendor, family: as CPUID names them.");
  m.def(
      "processor",
      [] {
        const rsr::Processor found = rsr::this_processor();
        return nb::make_tuple(found.vendor, found.family, found.model);
      },
      nb::sig("def processor() -> tuple[str, int, int]"),
      "Vendor, family and model of this processor, as CPUID names them.");
  m.def("thresholds", &rsr::thresholds,
        "Those of the batch kernels of the instruction set in use.");
  m.def("use_tuning", &rsr::use_tuning, "row"_a,
        "Use other constants. Only while no product runs.");
}

bool collapse_into_huge_pages(const Array<const uint8_t, 1>& data) {
  bool done = false;
  without_gil([&] { done = rsr::collapse_into_huge_pages(data.data(), data.nbytes()); });
  return done;
}

bool copy_into_huge_pages(const Array<const uint8_t, 1>& data, size_t page) {
  require(
      page > 0 && reinterpret_cast<uintptr_t>(data.data()) % page == 0 && data.nbytes() % page == 0,
      "data must be whole huge pages");
  bool done = false;
  without_gil([&] { done = rsr::copy_into_huge_pages(data.data(), data.nbytes(), page); });
  return done;
}

nb::object nucleus(const Array<const double, 1>& weights, double enough) {
  std::optional<rsr::Nucleus> found;
  without_gil([&] { found = rsr::nucleus(weights.data(), weights.shape(0), enough); });
  return found ? nb::make_tuple(found->smallest, found->equal) : nb::object(nb::none());
}

size_t draw(const Array<const double, 1>& weights, double smallest, size_t equal, double random) {
  require(weights.shape(0) < size_t{1} << 32, "there must be fewer than 2^32 weights");
  size_t entry = 0;
  without_gil(
      [&] { entry = rsr::draw(weights.data(), weights.shape(0), {smallest, equal}, random); });
  return entry;
}

}  // namespace

NB_MODULE(_native, m) {
  // A matrix may outlive the interpreter (in a daemon thread, say); that is not an error.
  nb::set_leak_warnings(false);

  bind_indexes(m);
  nb::class_<Program> program = bind_program(m);
  bind_products(m, program);
  bind_decoder(m, program);
  bind_experts(m, program);
  bind_updates(m);
  m.def("quantize_i8", &quantize_i8, "x"_a, "q"_a.noconvert(), "s"_a.noconvert(),
        "For each row of x: s = 127 / max(max|x|, 1e-5), q = clip(round(x s), -128, 127), rounded "
        "half to even (BitNet b1.58).\n\n"
        "x: (count, n). q: (count, n), written. s: (count, 1), written; NaN for a row that is not "
        "finite. Raises ValueError for other shapes.");
  m.def("quantize_groups_i8", &quantize_groups_i8, "x"_a, "group_columns"_a, "q"_a.noconvert(),
        "steps"_a.noconvert(),
        "For each row of x and group of columns, with m its largest |x|: step = m / 127, q = "
        "round(x * (127 / m)), rounded half to even; both 0 where m < 2^-119.\n\n"
        "x: (count, n). group_columns: of a group; the last may have fewer. q: (count, n), "
        "written. steps: (count, groups), written; NaN for a group that is not finite. Raises "
        "ValueError for other shapes.");
  m.def("compiled_isas", &rsr::compiled_isas, "Instruction sets of this build, widest first.");
  m.def("supported_isas", &rsr::supported_isas,
        "Instruction sets of this processor, widest first; the last is 'scalar'.");
  m.def("isa", [] { return std::string(rsr::kernels().isa); }, "The instruction set in use.");
  m.def("use_isa", &rsr::use_isa, "name"_a,
        "Use the kernels of this instruction set. Raises ValueError for an unknown or unsupported "
        "name.");
  m.def("num_threads", &rsr::num_threads, "Threads of a product, at most.");
  m.def("set_num_threads", &rsr::set_num_threads, "n"_a,
        "Set num_threads(). Raises ValueError unless 1 <= n <= 1024.");
  m.def("nucleus", &nucleus, "weights"_a, "enough"_a,
        nb::sig("def nucleus(weights: numpy.typing.NDArray[numpy.float64], enough: float) -> "
                "tuple[float, int] | None"),
        "Return (smallest, equal): the fewest largest weights whose sum is at least `enough` are "
        "those above `smallest` and the first `equal` of those equal to it. None where rounding "
        "could decide, or for a set that reaches far below the largest weight.\n\n"
        "weights: (n,), 0 to 1, the largest is 1.");
  m.def("draw", &draw, "weights"_a, "smallest"_a, "equal"_a, "random"_a,
        "Draw one of the weights above `smallest` and the first `equal` of those equal to it: the "
        "first at which their sum, in order, is above `random` times the whole sum, or is the "
        "whole sum.\n\n"
        "weights: (n,). random: 0 to below 1. Raises ValueError for 2^32 or more weights.");
  bind_tuning(m);
  m.def("plain_read", &plain_read, "data"_a,
        "Read every byte once, on one thread: the memory limit of a product. data: (bytes,). "
        "Returns a number that depends on each byte.");
  m.def("collapse_into_huge_pages", &collapse_into_huge_pages, "data"_a,
        "Have the system collect the pages of a mapped file into huge ones, for all processes. "
        "Returns whether it did.\n\n"
        "data: (bytes,), whole pages.");
  m.def("copy_into_huge_pages", &copy_into_huge_pages, "data"_a, "page"_a,
        "Replace part of a read-only mapping by a private copy of the same bytes at the same "
        "address, in huge pages if the system has any. Returns whether it did.\n\n"
        "data: (bytes,), whole pages of `page` bytes, the size of a huge page. Raises ValueError "
        "for other data.");
}
