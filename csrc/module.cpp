// The only file that includes pybind11: names, argument checks, GIL release, views.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <system_error>

#include "crc32c.h"
#include "order.h"
#include "shard_reader.h"
#include "shard_writer.h"

namespace py = pybind11;
using namespace discl;

using Ids = py::array_t<int64_t, py::array::c_style>;

static std::string text(const py::handle& value) { return py::str(value); }

// A Python integer in [0, 2^bits); ValueError says what was given.
static uint64_t whole(const py::int_& value, const char* name, int bits) {
    const py::int_ zero(0), end = py::reinterpret_borrow<py::int_>(py::int_(1).attr("__lshift__")(bits));
    if (value < zero || value >= end)
        throw std::invalid_argument(std::string(name) + " is " + text(value) + "; it must be in [0, 2^" +
                                    std::to_string(bits) + ")");
    return value.cast<uint64_t>();
}

static bool is_range(const py::handle& ids) {
    return py::isinstance(ids,
                          py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(&PyRange_Type)));
}

static Ids int64_ids(const py::handle& ids, size_t k) {
    const py::array given = py::array::ensure(ids);
    const bool integers =
        given && (given.dtype().kind() == 'i' || given.dtype().kind() == 'u' || !given.size());
    if (!integers || given.ndim() != 1)
        throw std::invalid_argument(
            "pool " + std::to_string(k) + ": ids must be a range or a 1-D integer array, not " +
            text(py::type::of(ids)) + (given ? " of dtype " + text(given.dtype()) : ""));
    return py::array_t<int64_t, py::array::c_style | py::array::forcecast>(given);
}

// `held` keeps the arrays alive that the pools point into.
static Pool make_pool(const py::handle& item, size_t k, std::vector<Ids>& held) {
    const auto pair = py::reinterpret_borrow<py::sequence>(item);
    if (!py::isinstance<py::sequence>(item) || py::len(pair) != 2)
        throw std::invalid_argument("pool " + std::to_string(k) + ": expected (ids, quota)");
    const std::string name = "pool " + std::to_string(k) + ": quota";
    const uint64_t quota = whole(py::int_(py::object(pair[1])), name.c_str(), 62);
    const py::object ids = pair[0];
    if (is_range(ids))
        return {nullptr, ids.attr("start").cast<int64_t>(), ids.attr("step").cast<int64_t>(), py::len(ids),
                quota};
    held.push_back(int64_ids(ids, k));
    return {held.back().data(), 0, 0, uint64_t(held.back().size()), quota};
}

static Ids order(const py::sequence& pools, const py::int_& seed, const py::int_& epoch,
                 const py::int_& start, const py::int_& count, const py::int_& rank, const py::int_& world) {
    const Slice slice{whole(start, "start", 62), whole(count, "count", 62), whole(rank, "rank", 32),
                      whole(world, "world", 32)};
    if (slice.rank >= slice.world)
        throw std::invalid_argument("rank is " + text(rank) + " of world " + text(world) +
                                    "; it must be below world");
    std::vector<Ids> held;
    std::vector<Pool> members;
    for (size_t k = 0; k < pools.size(); ++k) members.push_back(make_pool(py::object(pools[k]), k, held));
    const Order whole_order(std::move(members), whole(seed, "seed", 64), uint32_t(whole(epoch, "epoch", 32)));
    Ids out(py::ssize_t(whole_order.length(slice)));
    int64_t* data = out.mutable_data();
    const py::gil_scoped_release release;
    whole_order.fill(slice, data);
    return out;
}

static py::array_t<uint32_t> draws(const py::int_& seed, const py::int_& epoch, const py::handle& positions) {
    const uint64_t key = whole(seed, "seed", 64);
    const auto which = uint32_t(whole(epoch, "epoch", 32));
    const Ids places = int64_ids(positions, 0);
    py::array_t<uint32_t> out({places.size(), py::ssize_t{4}});
    uint32_t* data = out.mutable_data();
    const int64_t *first = places.data(), *last = first + places.size();
    const py::gil_scoped_release release;
    for (; first != last; ++first)
        for (const uint32_t word : draw(key, which, uint64_t(*first))) *data++ = word;
    return out;
}

static Block philox_block(const std::array<uint32_t, 4>& counter, const std::array<uint32_t, 2>& key) {
    return philox4x32(counter, key);
}

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

    module.def("order", &order, py::arg("pools"), py::arg("seed"), py::arg("epoch"), py::arg("start"),
               py::arg("count"), py::arg("rank") = 0, py::arg("world") = 1);
    module.def("philox", &draws, py::arg("seed"), py::arg("epoch"), py::arg("positions"));
    module.def("philox4x32", &philox_block, py::arg("counter"), py::arg("key"));
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
    py::class_<ShardReader>(module, "ShardReader")
        .def(py::init<std::string>(), py::arg("path"), unlocked)
        .def("read", &read_bytes, py::arg("offset"), py::arg("length"), py::arg("crc"))
        .def("members", &member_list)
        .def_property_readonly("size", &ShardReader::size);
}
