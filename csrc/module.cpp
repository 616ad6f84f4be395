// The module and the writing side of the store in Python: names, argument checks, GIL release, views.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <system_error>

#include "bind.h"
#include "crc32c.h"
#include "shard_writer.h"

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

static std::string_view view(const py::bytes& data) { return std::string_view(data); }

static void append(ShardWriter& writer, const std::string& key, const std::string& extension,
                   const py::bytes& image, const py::bytes& json, const py::bytes& row,
                   const py::bytes& embedding) {
    const Sample sample{key, extension, view(image), view(json), view(row), view(embedding)};
    const py::gil_scoped_release release;
    writer.append(sample);
}

static py::list record_list(ShardWriter& writer) {
    std::vector<Record> found;
    {
        const py::gil_scoped_release release;
        found = writer.records();
    }
    py::list out;
    for (const Record& record : found) {
        py::object place = py::none();
        if (record.has_image) place = py::make_tuple(record.offset, record.length, record.crc);
        out.append(py::make_tuple(py::bytes(record.row), py::bytes(record.embedding), place));
    }
    return out;
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
    module.doc() = "discl._C: store bytes, data order, counter-based random numbers";
    py::register_exception_translator(&raise_as_os_error);

    bind_order(module);
    module.def("crc32c", &crc_of<crc32c>, py::arg("data"), py::arg("crc") = 0);
    module.def("crc32c_table", &crc_of<crc32c_table>, py::arg("data"), py::arg("crc") = 0);

    const auto unlocked = py::call_guard<py::gil_scoped_release>();
    py::class_<ShardWriter>(module, "ShardWriter")
        .def(py::init<std::string, std::string>(), py::arg("tar"), py::arg("journal"), unlocked)
        .def("append", &append, py::arg("key"), py::arg("extension"), py::arg("image"), py::arg("json"),
             py::arg("row"), py::arg("embedding"))
        .def("sync", &ShardWriter::sync, unlocked)
        .def("records", &record_list)
        .def("finish", &ShardWriter::finish, unlocked)
        .def_property_readonly("samples", &ShardWriter::samples)
        .def_property_readonly("written_bytes", &ShardWriter::written_bytes);
    bind_reader(module);
}
