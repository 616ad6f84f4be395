// The only file that includes pybind11: names, GIL release, views.
#include <pybind11/pybind11.h>

PYBIND11_MODULE(_C, module) { module.doc() = "discl._C: store bytes, data order, counter-based random numbers"; }
