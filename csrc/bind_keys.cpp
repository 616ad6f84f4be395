// The key table in Python: keys as 32 hex characters, one by one or end to end in a buffer.
#include <pybind11/numpy.h>

#include "bind.h"
#include "key_table.h"

namespace discl {

static Key key_of(std::string_view hex) {
    Key key;
    if (!parse_key(hex, key))
        throw std::invalid_argument("'" + std::string(hex) + "' is not 32 lowercase hex characters");
    return key;
}

static bool contains(const KeyTable& table, std::string_view hex) {
    Key key;
    return parse_key(hex, key) && table.find(key) != KeyTable::none;
}

static std::string hex_of(const Key& key) {
    std::string hex(32, '0');
    for (size_t i = 0; i < 32; ++i) hex[i] = "0123456789abcdef"[key[i / 16] >> (60 - 4 * (i % 16)) & 15];
    return hex;
}

static std::string_view hex_view(const py::buffer_info& info) {
    if (!PyBuffer_IsContiguous(info.view(), 'C') || info.itemsize != 1 || info.size % 32)
        throw std::invalid_argument("expected 32 hex characters per key, end to end");
    return {static_cast<const char*>(info.ptr), size_t(info.size)};
}

static uint64_t add_keys(KeyTable& table, const py::buffer& keys) {
    const py::buffer_info info = keys.request();
    const std::string_view hex = hex_view(info);
    const py::gil_scoped_release release;
    const uint64_t before = table.size();
    table.reserve(before + hex.size() / 32);
    for (size_t at = 0; at < hex.size(); at += 32) table.add(key_of(hex.substr(at, 32)));
    return table.size() - before;
}

static py::array_t<int64_t> find_keys(const KeyTable& table, const py::buffer& keys) {
    const py::buffer_info info = keys.request();
    const std::string_view hex = hex_view(info);
    py::array_t<int64_t> numbers(py::ssize_t(hex.size() / 32));
    int64_t* out = numbers.mutable_data();
    const py::gil_scoped_release release;
    for (size_t at = 0; at < hex.size(); at += 32) *out++ = int64_t(table.find(key_of(hex.substr(at, 32))));
    return numbers;
}

static std::string key_at(const KeyTable& table, uint64_t number) {
    if (number >= table.size()) throw std::out_of_range("there is no key " + std::to_string(number));
    return hex_of(table[number]);
}

void bind_keys(py::module_& module) {
    py::class_<KeyTable>(module, "KeyTable")
        .def(py::init<>())
        .def("add", [](KeyTable& table, std::string_view key) { return table.add(key_of(key)); }, py::arg("key"))
        .def("add_all", &add_keys, py::arg("keys"))
        .def("find_all", &find_keys, py::arg("keys"))
        .def("__contains__", &contains)
        .def("__getitem__", &key_at)
        .def("__len__", &KeyTable::size);
}

}  // namespace discl
