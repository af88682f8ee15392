#include "program.h"

#include <algorithm>
#include <chrono>

using namespace nb::literals;

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kDeaf(50);  // how long Ctrl-C may have to wait, a step apart

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

void Program::add(size_t part, Work work) {
  require(!is_running_, "a program that runs takes no more steps");
  steps_.push_back({part, std::move(work), {}, {}});
  parts_ = std::max(parts_, part + 1);
}

void Program::add_call(size_t part, nb::callable call, nb::args arguments) {
  add(part, nullptr);
  steps_.back().call = std::move(call);
  steps_.back().arguments = std::move(arguments);
}

void Program::run(const Array<double, 1>& seconds) {
  require(!is_running_, "a program is run by one thread at a time: its buffers are its own");
  require(seconds.shape(0) >= parts_, "seconds must have an entry for each part");
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
  while (i < steps_.size() && steps_[i].work && last - begin < kDeaf) {
    steps_[i].work();
    const Clock::time_point now = Clock::now();
    seconds[steps_[i++].part] += seconds_between(last, now);
    last = now;
  }
  return i;
}

void Program::run_call(const Step& step, double* seconds) const {
  const Clock::time_point begin = Clock::now();
  step.call(*nb::borrow<nb::args>(step.arguments));
  seconds[step.part] += seconds_between(begin, Clock::now());
}

nb::class_<Program> bind_program(nb::module_& m) {
  return nb::class_<Program>(m, "Program")
      .def(nb::init<>())
      .def("call", &Program::add_call, "part"_a, "function"_a, "arguments"_a,
           nb::sig("def call(self, part: int, function: object, *arguments: object) -> None"))
      .def("run", &Program::run, "seconds"_a.noconvert());
}
