// What the files that speak pybind11 (bind*.cpp, module.cpp) share; no other file includes it.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace discl {

namespace py = pybind11;

void bind_keys(py::module_& module);
void bind_order(py::module_& module);
void bind_reader(py::module_& module);
void bind_rows(py::module_& module);
void bind_writer(py::module_& module);

inline std::string text(const py::handle& value) { return py::str(value); }

}  // namespace discl
