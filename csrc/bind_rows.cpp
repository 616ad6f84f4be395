// Rows of an index, as Python has them: whether Arrow takes every value as it is, and columns grown from them.
#include <pybind11/stl.h>  // first, since it brings Python.h
#include <datetime.h>

#include <cmath>
#include <cstdint>

#include "bind.h"
#include "index_columns.h"
#include "key_table.h"

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

static bool is_key(PyObject* value) {
    Key key;
    return PyUnicode_CheckExact(value) && PyUnicode_IS_COMPACT_ASCII(value) &&
           parse_key({reinterpret_cast<const char*>(PyUnicode_1BYTE_DATA(value)), size_t(PyUnicode_GET_LENGTH(value))}, key);
}

static bool is_of(char kind, PyObject* value) {
    if (kind == 'k') return is_key(value);
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

// Days from 1970-01-01 to a date of the Gregorian calendar (Hinnant, chrono-compatible low-level date algorithms).
static int64_t days_from_civil(int64_t year, int64_t month, int64_t day) {
    year -= month <= 2;
    const int64_t era = year / 400, of_era = year % 400;
    const int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static int64_t microseconds(PyObject* time) {
    if (!PyDateTime_Check(time)) throw py::type_error("expected a datetime in UTC");
    const int64_t days = days_from_civil(PyDateTime_GET_YEAR(time), PyDateTime_GET_MONTH(time), PyDateTime_GET_DAY(time));
    const int64_t minutes = (days * 24 + PyDateTime_DATE_GET_HOUR(time)) * 60 + PyDateTime_DATE_GET_MINUTE(time);
    return (minutes * 60 + PyDateTime_DATE_GET_SECOND(time)) * 1000000 + PyDateTime_DATE_GET_MICROSECOND(time);
}

template <class Number>
static Number checked(Number value) {
    if (value == Number(-1) && PyErr_Occurred()) throw py::error_already_set();
    return value;
}

static std::string_view utf8(PyObject* text) {
    Py_ssize_t bytes;
    const char* const data = PyUnicode_AsUTF8AndSize(text, &bytes);
    if (!data) throw py::error_already_set();
    return {data, size_t(bytes)};
}

static void push_float(Column& column, double value) {
    if (std::isfinite(value)) column.push_number(float(value));
    else column.push_null();  // as in JSON
}

static void push(Column& column, PyObject* value) {
    if (value == Py_None) return column.push_null();
    switch (column.kind()) {
        case 's': return column.push_text(utf8(value));
        case 'i': return column.push_number(int32_t(checked(PyLong_AsLongLong(value))));
        case 'l': return column.push_number(int64_t(checked(PyLong_AsLongLong(value))));
        case 'f': return push_float(column, checked(PyFloat_AsDouble(value)));
        case 'b': return column.push_bool(value == Py_True);
        case 't': return column.push_number(microseconds(value));
        case 'S':
            if (!PyList_Check(value)) throw py::type_error("expected a list of strings");
            for (Py_ssize_t i = 0; i < PyList_GET_SIZE(value); ++i) push(column.items(), PyList_GET_ITEM(value, i));
            return column.push_list();
    }
}

namespace {

class IndexColumns {
public:
    explicit IndexColumns(std::string_view kinds) {
        for (const char kind : kinds) columns_.emplace_back(kind);
    }
    void append(const py::dict& row) {
        Py_ssize_t place = 0;
        PyObject *key, *value;
        for (Column& column : columns_) {
            if (!PyDict_Next(row.ptr(), &place, &key, &value)) throw py::value_error("the row lacks columns");
            push(column, value);
        }
    }
    const Column& at(size_t column) const { return columns_.at(column); }

private:
    std::vector<Column> columns_;
};

}  // namespace

static std::vector<py::array_t<uint8_t>> buffers(const py::object& columns, size_t column) {
    std::vector<py::array_t<uint8_t>> out;
    for (const std::string_view bytes : columns.cast<const IndexColumns&>().at(column).buffers())
        out.push_back(lent(columns, bytes));
    return out;
}

void bind_rows(py::module_& module) {
    PyDateTime_IMPORT;
    module.def("is_plain", &is_plain, py::arg("row"), py::arg("kinds"));
    py::class_<IndexColumns>(module, "IndexColumns")
        .def(py::init<std::string_view>(), py::arg("kinds"))
        .def("append", &IndexColumns::append, py::arg("row"))
        .def("buffers", &buffers, py::arg("column"));
}

}  // namespace discl
