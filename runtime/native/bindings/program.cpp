#include "bindings/program.h"

#include <algorithm>
#include <chrono>

using namespace nb::literals;

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kSignalInterval(50);

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

void Program::add(size_t part, Work work) {
  require(!is_running_, "a program that runs takes no more steps");
  steps_.push_back({part, std::move(work), {}, {}});
  last_part_ = std::max(last_part_, part);
}

void Program::add_call(size_t part, nb::callable call, nb::args arguments) {
  add(part, nullptr);
  steps_.back().call = std::move(call);
  steps_.back().arguments = std::move(arguments);
}

void Program::run(const Array<double, 1>& seconds) {
  require(!is_running_, "a program is run by one thread at a time: its buffers are its own");
  require(steps_.empty() || last_part_ < seconds.shape(0),
          "seconds must have an entry for each part");
  struct Running {
    bool& flag;
    explicit Running(bool& f) : flag(f) { flag = true; }
    ~Running() { flag = false; }
  } running(is_running_);
  for (size_t i = 0; i < steps_.size();) {
    if (steps_[i].work) {
      without_gil([&] { i = run_native(i, seconds.data()); });
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
    } else {
      run_call(steps_[i++], seconds.data());
    }
  }
}

size_t Program::run_native(size_t first, double* seconds) const {
  const Clock::time_point begin = Clock::now();
  Clock::time_point last = begin;
  size_t i = first;
  while (i < steps_.size() && steps_[i].work && last - begin < kSignalInterval) {
    steps_[i].work();
    const Clock::time_point now = Clock::now();
    seconds[steps_[i++].part] += seconds_between(last, now);
    last = now;
  }
  return i;
}

void Program::run_call(const Step& step, double* seconds) const {
  const Clock::time_point begin = Clock::now();
  PyObject* result =
      or_sleep([&] { return PyObject_Call(step.call.ptr(), step.arguments.ptr(), nullptr); });
  if (!result) throw nb::python_error();
  Py_DECREF(result);
  seconds[step.part] += seconds_between(begin, Clock::now());
}

nb::class_<Program> bind_program(nb::module_& m) {
  return nb::class_<Program>(
             m, "Program",
             "Calls of this module, recorded once and repeated without Python between "
             "them. Its methods take the arguments of the functions of the same name, "
             "after `part`, and hold their arrays, which are read when it runs.")
      .def(nb::init<>())
      .def("call", &Program::add_call, "part"_a, "function"_a, "arguments"_a,
           nb::sig("def call(self, part: int, function: collections.abc.Callable[..., object], "
                   "*arguments: object) -> None"),
           "Add a step that calls function(*arguments) with the GIL.")
      .def("run", &Program::run, "seconds"_a.noconvert(),
           "Run all steps in order and add the time of each to seconds[part].\n\n"
           "seconds: (parts,), float64, in seconds. Raises ValueError while the program runs "
           "already, or if seconds has no entry for a part; KeyboardInterrupt between two steps; "
           "and what a called function raises.");
}
