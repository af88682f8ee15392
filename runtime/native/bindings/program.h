// Calls of the native module, recorded once and repeated without Python between them.
#pragma once
#include <cstddef>
#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

#include "bindings/bindings.h"

// A token of a language model is some 300 calls, each of a few microseconds. Python between them
// takes as long again: not by its instructions alone, but as the index that a product reads has
// swept them, and all that they touch, out of the caches.
class Program {
 public:
  using Work = std::function<void()>;

  // Adds a step, which keeps alive what it captures. `part` is where its time is added to.
  void add(size_t part, Work work);
  void add_call(size_t part, nb::callable call, nb::args arguments);

  // Does all steps in order. Ctrl-C is looked for every few of them, and ends it between two.
  void run(const Array<double, 1>& seconds);

 private:
  struct Step {
    size_t part;
    Work work;  // without the GIL; if there is none, `call`, with it
    nb::object call, arguments;
  };

  size_t run_native(size_t first, double* seconds) const;
  void run_call(const Step& step, double* seconds) const;

  std::vector<Step> steps_;
  size_t last_part_ = 0;  // the highest of any step
  bool is_running_ = false;
};

// A step converts no array: it would read the copy for ever. Numbers it may.
template <class Given, class Name>
auto unconverted(Name name) {
  if constexpr (std::is_arithmetic_v<std::decay_t<Given>>)
    return name;
  else
    return name.noconvert();
}

// Binds what `make` gives as a function of the module, and as a step of a program. `make` checks
// its arguments and returns the work, which holds them.
template <class Made, class... Args, class... Names>
void bind_step(nb::module_& m, nb::class_<Program>& program, const char* name,
               Made (*make)(Args...), const Names&... names) {
  m.def(name, [make](Args... args) { without_gil(make(args...)); }, names...);
  program.def(
      name, [make](Program& self, size_t part, Args... args) { self.add(part, make(args...)); },
      nb::arg("part"), unconverted<Args>(names)...);
}

nb::class_<Program> bind_program(nb::module_& m);
void bind_decoder(nb::module_& m, nb::class_<Program>& program);  // decoder_bindings.cpp
