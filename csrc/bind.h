// What the files that speak pybind11 (bind*.cpp, module.cpp) share; no other file includes it.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <string_view>

namespace discl {

namespace py = pybind11;

void bind_keys(py::module_& module);
void bind_order(py::module_& module);
void bind_reader(py::module_& module);
void bind_render(py::module_& module);
void bind_rows(py::module_& module);
void bind_writer(py::module_& module);

// Read-only uint8 that keeps the owner alive; good until the owner changes.
inline py::array_t<uint8_t> lent(const py::object& owner, std::string_view bytes) {
    py::array_t<uint8_t> out(py::ssize_t(bytes.size()), reinterpret_cast<const uint8_t*>(bytes.data()), owner);
    py::detail::array_proxy(out.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
    return out;
}

inline std::string text(const py::handle& value) { return py::str(value); }

}  // namespace discl
