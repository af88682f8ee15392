// Programs: calls of the native module, recorded once and repeated without Python between them.
#pragma once
#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "ranked.h"
#include "rotation/rotation.h"
#include "table.h"

// A token of a language model takes some 300 calls of a few microseconds each. Python between them
// takes as long again, less for its instructions than for cache misses: the index that each product
// reads evicts the interpreter's code and data.
class Program {
 public:
  using Work = std::function<void()>;

  // Adds a step. It keeps the arrays that it captures alive. Its time is added to seconds[part].
  void add(size_t part, Work work);
  void add_call(size_t part, nb::callable call, nb::args arguments);

  // Runs all steps in order. Checks for signals every 50 ms; Ctrl-C ends the run between two steps.
  void run(const Array<double, 1>& seconds);

 private:
  struct Step {
    size_t part;
    Work work;  // runs without the GIL; if empty, `call` runs with it
    nb::object call, arguments;
  };

  size_t run_native(size_t first, double* seconds) const;
  void run_call(const Step& step, double* seconds) const;

  std::vector<Step> steps_;
  size_t last_part_ = 0;  // the highest part of any step
  bool is_running_ = false;
};

// A step does not convert arrays: it would read the copy forever. It may convert numbers.
template <class Given, class Name>
auto unconverted(Name name) {
  if constexpr (std::is_arithmetic_v<std::decay_t<Given>> ||
                std::is_same_v<std::decay_t<Given>, std::optional<size_t>>)
    return name;
  else
    return name.noconvert();
}

// Binds `make` twice: as a function of the module, which runs its result, and as a method of
// Program, which adds its result as a step. `make` checks its arguments and returns the work, which
// holds them.
template <class Made, class... Args, class... Names>
void bind_step(nb::module_& m, nb::class_<Program>& program, const char* name,
               Made (*make)(Args...), const char* doc, const Names&... names) {
  m.def(name, [make](Args... args) { without_gil(make(args...)); }, names..., doc);
  program.def(
      name, [make](Program& self, size_t part, Args... args) { self.add(part, make(args...)); },
      nb::arg("part"), unconverted<Args>(names)..., doc);
}

template <class T, int N>
using Maybe = std::optional<Array<T, N>>;

template <class Given>
auto pointer(const std::optional<Given>& array) {
  return array ? array->data() : nullptr;
}

// Throws std::invalid_argument for a name that is unknown. decoder.cpp
rsr::Activation activation_named(const std::string& name);

// Checks that a rotation fits rows of n. decoder.cpp
rsr::Rotation rotation_of(size_t n, const Array<const float, 1>& factors, size_t block);

// The index of a Ranked; null for any other object. products.cpp
const rsr::RankedIndex* ranked_index(nb::handle object);

nb::class_<Program> bind_program(nb::module_& m);
void bind_indexes(nb::module_& m);  // products.cpp
void bind_products(nb::module_& m, nb::class_<Program>& program);
void bind_decoder(nb::module_& m, nb::class_<Program>& program);  // decoder.cpp
void bind_experts(nb::module_& m, nb::class_<Program>& program);  // experts.cpp
void bind_updates(nb::module_& m);                                // update.cpp
