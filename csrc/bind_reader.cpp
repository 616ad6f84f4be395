// Reading in Python: sealed shards, and batches whose images are numpy views.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include "batch_reader.h"
#include "bind.h"
#include "shard_reader.h"

namespace discl {

using Numbers = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;

static py::bytes read_bytes(const ShardReader& reader, uint64_t offset, uint64_t length, uint32_t crc) {
    reader.check_bounds(offset, length);
    py::bytes out(nullptr, length);
    char* data = PyBytes_AS_STRING(out.ptr());
    const py::gil_scoped_release release;
    reader.read(offset, data, length, crc);
    return out;
}

static py::list member_list(const ShardReader& reader) {
    std::vector<Member> found;
    {
        const py::gil_scoped_release release;
        found = reader.members();
    }
    py::list out;
    for (const Member& member : found) out.append(py::make_tuple(member.name, member.offset, member.length));
    return out;
}

namespace {

// A reader that survives a fork: the child has none of its threads, so there it is left alone.
class ForkedReader {
public:
    ForkedReader(unsigned threads, size_t open_files)
        : process_(::getpid()), reader_(std::make_unique<BatchReader>(threads, open_files)) {}
    ~ForkedReader() {
        if (process_ != ::getpid()) (void)reader_.release();
    }

    BatchReader& get() const {
        if (process_ != ::getpid())
            throw std::runtime_error("this reader belongs to the process that was forked; make another");
        return *reader_;
    }

private:
    const pid_t process_;
    std::unique_ptr<BatchReader> reader_;
};

}  // namespace

static std::shared_ptr<const Batch> submit(const ForkedReader& reader, std::vector<std::string> files,
                                           const Numbers& which, const Numbers& offsets,
                                           const Numbers& lengths, const Numbers& crcs) {
    const py::ssize_t count = which.size();
    for (const Numbers* column : {&which, &offsets, &lengths, &crcs})
        if (column->ndim() != 1 || column->size() != count)
            throw std::invalid_argument("which, offsets, lengths and crcs must be 1-D and of one length");
    std::vector<Place> places(static_cast<size_t>(count));
    for (py::ssize_t i = 0; i < count; ++i) {
        if (which.at(i) < 0 || uint64_t(which.at(i)) >= files.size())
            throw std::out_of_range("image " + std::to_string(i) + " is in file " +
                                    std::to_string(which.at(i)) + " of " + std::to_string(files.size()));
        places[size_t(i)] = {uint32_t(which.at(i)), uint32_t(crcs.at(i)), uint64_t(offsets.at(i)),
                             lengths.at(i) < 0 ? Place::whole : uint64_t(lengths.at(i))};
    }
    const py::gil_scoped_release release;
    return reader.get().submit(std::move(files), std::move(places));
}

// Read-only views that keep the batch alive, None for an image that could not be read.
static py::list images(const std::shared_ptr<const Batch>& batch) {
    const py::object owner = py::cast(batch);
    py::list out;
    for (size_t i = 0; i < batch->size(); ++i) {
        const Image& image = (*batch)[i];
        if (!image.error.empty()) {
            out.append(py::none());
            continue;
        }
        py::array_t<uint8_t> view(py::ssize_t(image.bytes.size()),
                                  reinterpret_cast<const uint8_t*>(image.bytes.data()), owner);
        py::detail::array_proxy(view.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
        out.append(std::move(view));
    }
    return out;
}

static py::dict errors(const Batch& batch) {
    py::dict out;
    for (size_t i = 0; i < batch.size(); ++i)
        if (!batch[i].error.empty())
            out[py::int_(i)] = text(py::bytes(batch[i].error).attr("decode")("utf-8", "backslashreplace"));
    return out;
}

static py::array_t<bool> plain(const Batch& batch) {
    py::array_t<bool> out(py::ssize_t(batch.size()));
    for (size_t i = 0; i < batch.size(); ++i) out.mutable_at(i) = batch[i].header.plain;
    return out;
}

static py::array_t<uint32_t> sizes(const Batch& batch) {
    py::array_t<uint32_t> out({py::ssize_t(batch.size()), py::ssize_t{2}});
    for (size_t i = 0; i < batch.size(); ++i) {
        out.mutable_at(i, 0) = batch[i].header.width;
        out.mutable_at(i, 1) = batch[i].header.height;
    }
    return out;
}

static const Batch& waited(const Batch& batch) {
    const py::gil_scoped_release release;
    batch.wait();
    return batch;
}

void bind_reader(py::module_& module) {
    const auto unlocked = py::call_guard<py::gil_scoped_release>();
    py::class_<ShardReader>(module, "ShardReader")
        .def(py::init<std::string>(), py::arg("path"), unlocked)
        .def("read", &read_bytes, py::arg("offset"), py::arg("length"), py::arg("crc"))
        .def("members", &member_list)
        .def_property_readonly("size", &ShardReader::size);
    py::class_<ForkedReader>(module, "BatchReader")
        .def(py::init<unsigned, size_t>(), py::arg("threads"), py::arg("open_files") = 256, unlocked)
        .def("submit", &submit, py::arg("files"), py::arg("which"), py::arg("offsets"), py::arg("lengths"),
             py::arg("crcs"));
    py::class_<Batch, std::shared_ptr<Batch>>(module, "Batch")
        .def("__len__", &Batch::size)
        .def("images", [](const std::shared_ptr<Batch>& batch) { return waited(*batch), images(batch); })
        .def("errors", [](const Batch& batch) { return errors(waited(batch)); })
        .def_property_readonly("plain", [](const Batch& batch) { return plain(waited(batch)); })
        .def_property_readonly("sizes", [](const Batch& batch) { return sizes(waited(batch)); });
    module.def(
        "image_header",
        [](const py::bytes& data) {
            const ImageHeader header = read_image_header(std::string_view(data));
            return py::make_tuple(header.width, header.height, header.plain);
        },
        py::arg("data"));
}

}  // namespace discl
