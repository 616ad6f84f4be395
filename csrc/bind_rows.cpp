// A row of an index, as Python has it: whether Arrow takes every value as it is.
#include <cstdint>

#include "bind.h"

namespace discl {

static bool is_integer(PyObject* value, long long limit) {
    if (!PyLong_CheckExact(value)) return false;
    int overflow = 0;
    const long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    return !overflow && number >= -limit - 1 && number <= limit;
}

static bool is_list_of_strings(PyObject* value) {
    if (!PyList_CheckExact(value)) return false;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(value); ++i)
        if (!PyUnicode_CheckExact(PyList_GET_ITEM(value, i))) return false;
    return true;
}

static bool is_of(char kind, PyObject* value) {
    if (value == Py_None) return true;
    switch (kind) {
        case 's': return PyUnicode_CheckExact(value);
        case 'i': return is_integer(value, INT32_MAX);
        case 'l': return is_integer(value, INT64_MAX);
        case 'f': return PyFloat_CheckExact(value);
        case 'b': return PyBool_Check(value);
        case 'S': return is_list_of_strings(value);
        default: return false;
    }
}

static bool is_plain(const py::dict& row, std::string_view kinds) {
    Py_ssize_t place = 0;
    PyObject *key, *value;
    for (const char kind : kinds)
        if (!PyDict_Next(row.ptr(), &place, &key, &value) || !is_of(kind, value)) return false;
    return true;
}

void bind_rows(py::module_& module) { module.def("is_plain", &is_plain, py::arg("row"), py::arg("kinds")); }

}  // namespace discl
