// The key table in Python: keys as 32 hex characters, one by one or end to end in a buffer.
#include <pybind11/numpy.h>

#include "bind.h"
#include "key_table.h"

namespace discl {

static bool is_key(std::string_view hex) {
    return hex.size() == 32 && hex.find_first_not_of("0123456789abcdef") == hex.npos;
}

static Key parse_key(std::string_view hex) {
    if (!is_key(hex))
        throw std::invalid_argument("'" + std::string(hex) + "' is not 32 lowercase hex characters");
    Key key{};
    for (size_t i = 0; i < 32; ++i)
        key[i / 16] = key[i / 16] << 4 | uint64_t(hex[i] <= '9' ? hex[i] - '0' : hex[i] - 'a' + 10);
    return key;
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
    for (size_t at = 0; at < hex.size(); at += 32) table.add(parse_key(hex.substr(at, 32)));
    return table.size() - before;
}

static py::array_t<int64_t> find_keys(const KeyTable& table, const py::buffer& keys) {
    const py::buffer_info info = keys.request();
    const std::string_view hex = hex_view(info);
    py::array_t<int64_t> numbers(py::ssize_t(hex.size() / 32));
    int64_t* out = numbers.mutable_data();
    const py::gil_scoped_release release;
    for (size_t at = 0; at < hex.size(); at += 32) *out++ = int64_t(table.find(parse_key(hex.substr(at, 32))));
    return numbers;
}

static std::string key_at(const KeyTable& table, uint64_t number) {
    if (number >= table.size()) throw std::out_of_range("there is no key " + std::to_string(number));
    return hex_of(table[number]);
}

void bind_keys(py::module_& module) {
    py::class_<KeyTable>(module, "KeyTable")
        .def(py::init<>())
        .def("add", [](KeyTable& table, std::string_view key) { return table.add(parse_key(key)); }, py::arg("key"))
        .def("add_all", &add_keys, py::arg("keys"))
        .def("find_all", &find_keys, py::arg("keys"))
        .def("__contains__",
             [](const KeyTable& table, std::string_view key) { return is_key(key) && table.find(parse_key(key)) != KeyTable::none; })
        .def("__getitem__", &key_at)
        .def("__len__", &KeyTable::size);
}

}  // namespace discl
