// Helpers of the bindings.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <chrono>
#include <exception>
#include <stdexcept>
#include <thread>

namespace nb = nanobind;

struct Half {  // float16
  uint16_t bits;
};

template <>
struct nanobind::detail::dtype_traits<Half> {
  static constexpr dlpack::dtype value{static_cast<uint8_t>(dlpack::dtype_code::Float), 16, 1};
  static constexpr auto name = const_name("float16");
};

template <class T, int N>
using Array = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

inline void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

// While the interpreter exits, Python up to 3.13 ends a daemon thread that asks for the GIL with
// pthread_exit. Its unwinding would reach noexcept frames and abort the process. Such a thread
// sleeps here until the process ends, as in Python 3.14. `ask` may wait for the GIL and throws
// nothing else.
template <class Ask>
auto or_sleep(const Ask& ask) {
  try {
    return ask();
  } catch (...) {
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }
}

// Calls work() without the GIL.
template <class Work>
void without_gil(const Work& work) {
  PyThreadState* state = PyEval_SaveThread();
  std::exception_ptr error;
  try {
    work();
  } catch (...) {
    error = std::current_exception();
  }
  or_sleep([&] { PyEval_RestoreThread(state); });
  if (error) std::rethrow_exception(error);
}
