// NumPy arrays by the buffer protocol and numpy.empty: what nb::ndarray does in some more calls,
// each of which is slow after a product that has evicted the interpreter from the caches.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "bindings/bindings.h"

struct NumPy {
  nb::object ndarray, empty, float32, int32;

  static const NumPy& get() {
    static const NumPy& numpy = *new NumPy(nb::module_::import_("numpy"));  // outlives the module
    return numpy;
  }

 private:
  explicit NumPy(const nb::module_& m)
      : ndarray(m.attr("ndarray")),
        empty(m.attr("empty")),
        float32(m.attr("dtype")("float32")),
        int32(m.attr("dtype")("int32")) {}
};

// The memory of a numpy.ndarray, no subclass, that is aligned and C- or F-contiguous. Of other
// objects there is no view, and no error.
class NumPyView {
 public:
  explicit NumPyView(nb::handle object) {
    PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(object.ptr()));
    if (type != NumPy::get().ndarray.ptr()) return;
    has_buffer_ = PyObject_GetBuffer(object.ptr(), &view_, PyBUF_RECORDS_RO) == 0;
    if (!has_buffer_) {
      PyErr_Clear();
      return;
    }
    // Some dtypes have no bytes: np.dtype([]), "V0".
    const bool is_aligned =
        view_.itemsize > 0 && reinterpret_cast<uintptr_t>(view_.buf) % view_.itemsize == 0;
    is_c_ = is_aligned && PyBuffer_IsContiguous(&view_, 'C');
    is_f_ = is_aligned && PyBuffer_IsContiguous(&view_, 'F');
  }
  ~NumPyView() {
    if (has_buffer_) PyBuffer_Release(&view_);
  }
  NumPyView(const NumPyView&) = delete;
  NumPyView& operator=(const NumPyView&) = delete;

  bool is_c_contiguous() const { return is_c_; }
  bool is_f_contiguous() const { return is_f_; }

  // T: float or int8_t, in the byte order of the processor.
  template <class T>
  bool holds() const {
    constexpr char kFormat = std::is_same_v<T, float> ? 'f' : 'b';
    return (is_c_ || is_f_) && view_.format[0] == kFormat && view_.format[1] == 0;
  }
  size_t dimensions() const { return view_.ndim; }
  size_t shape(size_t i) const { return view_.shape[i]; }
  template <class T>
  T* data() const {
    return static_cast<T*>(view_.buf);
  }

 private:
  Py_buffer view_;
  bool has_buffer_ = false, is_c_ = false, is_f_ = false;
};

// numpy.empty(shape) of float or int32_t.
template <class T>
nb::object new_array(const nb::tuple& shape) {
  const NumPy& numpy = NumPy::get();
  PyObject* arguments[] = {shape.ptr(),
                           (std::is_same_v<T, float> ? numpy.float32 : numpy.int32).ptr()};
  PyObject* array = PyObject_Vectorcall(numpy.empty.ptr(), arguments, 2, nullptr);
  if (!array) throw nb::python_error();
  return nb::steal(array);
}
