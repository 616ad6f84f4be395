// The module: checksums, errors of the system as OSError, and the parts that bind*.cpp add.
#include <pybind11/pybind11.h>

#include <system_error>

#include "bind.h"
#include "crc32c.h"

namespace py = pybind11;
using namespace discl;

template <uint32_t (*checksum)(std::string_view, uint32_t)>
static uint32_t crc_of(const py::buffer& data, uint32_t crc) {
    const py::buffer_info info = data.request();
    if (!PyBuffer_IsContiguous(info.view(), 'C')) throw std::invalid_argument("the buffer is not contiguous");
    const std::string_view bytes(static_cast<const char*>(info.ptr), size_t(info.size * info.itemsize));
    const py::gil_scoped_release release;
    return checksum(bytes, crc);
}

static void raise_as_os_error(std::exception_ptr pointer) {
    try {
        if (pointer) std::rethrow_exception(pointer);
    } catch (const std::system_error& error) {
        const py::object args = py::make_tuple(error.code().value(), error.what());
        PyErr_SetObject(PyExc_OSError, args.ptr());
    }
}

PYBIND11_MODULE(_C, module) {
    module.doc() = "discl._C: store bytes, data order, counter-based random numbers, views of images";
    py::register_exception_translator(&raise_as_os_error);

    module.def("crc32c", &crc_of<crc32c>, py::arg("data"), py::arg("crc") = 0);
    module.def("crc32c_table", &crc_of<crc32c_table>, py::arg("data"), py::arg("crc") = 0);
    bind_keys(module);
    bind_order(module);
    bind_reader(module);
    bind_render(module);
    bind_rows(module);
    bind_writer(module);
}
