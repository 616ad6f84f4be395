// The shard writer in Python.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>

#include "bind.h"
#include "shard_writer.h"

namespace discl {

static std::string_view view(const py::bytes& data) { return std::string_view(data); }

// The writer's threads do not exist in a forked child: nothing can be ended there, so it is left as it is.
struct Leave {
    void operator()(ShardWriter* writer) const {
        const py::gil_scoped_release release;
        if (!writer->forked()) delete writer;
    }
};
using WriterHandle = std::unique_ptr<ShardWriter, Leave>;

static WriterHandle open_writer(const std::string& tar, const std::string& journal, uint64_t sync_samples,
                                double sync_seconds) {
    const py::gil_scoped_release release;
    return WriterHandle(new ShardWriter(tar, journal, {sync_samples, sync_seconds}));
}

namespace {

// An embedding where it lies: bytes and arrays are fp16, but for those of float32.
class Embedding {
public:
    explicit Embedding(const py::object& given) {
        using Array = py::array_t<float, py::array::c_style>;
        if (Array::check_(given)) {
            const auto array = py::reinterpret_borrow<Array>(given);
            floats_ = {array.data(), size_t(array.size())};
        } else if (PyObject_GetBuffer(given.ptr(), &buffer_, PyBUF_SIMPLE)) {
            throw py::error_already_set();
        }
    }
    ~Embedding() {
        if (buffer_.obj) PyBuffer_Release(&buffer_);
    }
    Embedding(const Embedding&) = delete;
    Embedding& operator=(const Embedding&) = delete;

    Floats floats() const { return floats_; }
    std::string_view halves() const {
        return {static_cast<const char*>(buffer_.buf), static_cast<size_t>(buffer_.len)};
    }

private:
    Py_buffer buffer_{};
    Floats floats_;
};

}  // namespace

// A reference that any thread may drop.
static Owner hold(const py::bytes& data) {
    return {data.inc_ref().ptr(), [](const void* object) {
                const py::gil_scoped_acquire acquire;
                Py_DECREF(static_cast<PyObject*>(const_cast<void*>(object)));
            }};
}

// Keeps the GIL unless there is no room: it takes 3 us, and getting the GIL back among encoding threads more.
static uint64_t append(ShardWriter& writer, std::string_view key, std::string_view extension,
                   const py::bytes& image, uint64_t in_tar, const py::bytes& row, const py::object& given) {
    const Embedding embedding(given);
    const Sample sample{key,       extension,          view(image), in_tar,
                        view(row), embedding.halves(), hold(image), embedding.floats()};
    while (!writer.append(sample)) {
        const py::gil_scoped_release release;
        writer.wait_for_room();
    }
    return writer.written_bytes();
}

static py::object place_or_none(const TarPlace& place) {
    if (place.offset == no_data) return py::none();
    return py::make_tuple(place.offset, place.length, place.crc);
}

static py::list record_list(ShardWriter& writer) {
    std::vector<Record> found;
    {
        const py::gil_scoped_release release;
        found = writer.records();
    }
    py::list out;
    for (const Record& record : found)
        out.append(
            py::make_tuple(py::bytes(record.row), py::bytes(record.embedding), place_or_none(record.place)));
    return out;
}

// (offset, length, crc) arrays over the samples; offset is -1 where there is no image.
static py::tuple place_arrays(const ShardWriter& writer) {
    const auto& places = writer.places();
    const auto rows = py::ssize_t(places.size());
    py::array_t<int64_t> offset(rows), length(rows);
    py::array_t<uint32_t> crc(rows);
    for (py::ssize_t i = 0; i < rows; ++i) {
        const TarPlace& place = places[size_t(i)];
        offset.mutable_at(i) = place.offset == no_data ? -1 : int64_t(place.offset);
        length.mutable_at(i) = int64_t(place.length);
        crc.mutable_at(i) = place.crc;
    }
    return py::make_tuple(offset, length, crc);
}

static const KeptRows& rows_of(const py::object& writer) { return writer.cast<const ShardWriter&>().rows(); }

void bind_writer(py::module_& module) {
    const auto unlocked = py::call_guard<py::gil_scoped_release>();
    py::class_<ShardWriter, WriterHandle>(module, "ShardWriter")
        .def(py::init(&open_writer), py::arg("tar"), py::arg("journal"), py::arg("sync_samples") = 64,
             py::arg("sync_seconds") = 10.0)
        .def("append", &append, py::arg("key"), py::arg("extension"), py::arg("image"), py::arg("in_tar"),
             py::arg("row"), py::arg("embedding"))
        .def("flush", &ShardWriter::flush, unlocked)
        .def("records", &record_list)
        .def("finish", &ShardWriter::finish, unlocked)
        .def("close", &ShardWriter::close, unlocked)
        .def("places", &place_arrays)
        .def("rows", [](const py::object& writer) { return lent(writer, rows_of(writer).lines()); })
        .def("embeddings", [](const py::object& writer) { return lent(writer, rows_of(writer).embeddings()); })
        .def_property_readonly("embedding_bytes",
                               [](const ShardWriter& writer) { return writer.rows().embedding_bytes(); })
        .def_property_readonly("samples", &ShardWriter::samples)
        .def_property_readonly("synced_samples", &ShardWriter::synced_samples)
        .def_property_readonly("tar_bytes", &ShardWriter::tar_bytes)
        .def_property_readonly("tar_crc", &ShardWriter::tar_crc);
}

}  // namespace discl
