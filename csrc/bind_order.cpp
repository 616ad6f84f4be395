// The data order and its random numbers in Python.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <array>

#include "bind.h"
#include "order.h"
#include "philox.h"

namespace discl {

using Ids = py::array_t<int64_t, py::array::c_style>;
using Held = std::vector<py::array>;  // keeps the arrays alive that pools point into

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

static std::string pool_name(size_t k) { return "pool " + std::to_string(k) + ": "; }

static py::array integers(const py::handle& ids, size_t k) {
    const py::array given = py::array::ensure(ids);
    const bool whole_numbers =
        given && (given.dtype().kind() == 'i' || given.dtype().kind() == 'u' || !given.size());
    if (!whole_numbers || given.ndim() != 1)
        throw std::invalid_argument(
            pool_name(k) + "ids must be a range, a 1-D integer array or a list of these, not " +
            text(py::type::of(ids)) + (given ? " of dtype " + text(given.dtype()) : ""));
    return given;
}

static Segment make_segment(const py::handle& ids, size_t k, Held& held) {
    Segment segment;
    if (is_range(ids)) {
        segment.first = ids.attr("start").cast<int64_t>(), segment.step = ids.attr("step").cast<int64_t>();
        segment.size = py::len(ids);
        return segment;
    }
    const py::array given = integers(ids, k);
    segment.size = uint64_t(given.size());
    const auto keep = [&](auto array) {
        held.push_back(array);
        return array.data();
    };
    if (py::isinstance<py::array_t<int32_t>>(given))
        segment.narrow = keep(py::array_t<int32_t, py::array::c_style>::ensure(given));
    else segment.wide = keep(py::array_t<int64_t, py::array::c_style | py::array::forcecast>::ensure(given));
    return segment;
}

static bool is_list_of_segments(const py::handle& ids) {
    if (!py::isinstance<py::list>(ids) && !py::isinstance<py::tuple>(ids)) return false;
    const auto list = py::reinterpret_borrow<py::sequence>(ids);
    return list.size() && (is_range(py::object(list[0])) || py::isinstance<py::array>(py::object(list[0])));
}

static void set_weights(Pool& pool, const py::handle& weights, size_t k, Held& held) {
    if (weights.is_none()) return;
    const py::array given = py::array::ensure(weights);
    if (!given || given.ndim() != 1 || given.dtype().kind() != 'f')
        throw std::invalid_argument(
            pool_name(k) + "weights must be a 1-D array of floats, one for each id up to the largest");
    const auto array = py::array_t<float, py::array::c_style | py::array::forcecast>::ensure(given);
    held.push_back(array);
    pool.weights = array.data(), pool.weight_count = uint64_t(array.size());
}

static Pool make_pool(const py::handle& item, size_t k, Held& held) {
    const auto parts = py::reinterpret_borrow<py::sequence>(item);
    if (!py::isinstance<py::sequence>(item) || is_range(item) || parts.size() < 2 || parts.size() > 3)
        throw std::invalid_argument(pool_name(k) + "expected (ids, quota) or (ids, quota, weights)");
    Pool pool;
    pool.quota = whole(py::int_(py::object(parts[1])), (pool_name(k) + "quota").c_str(), 62);
    const auto append = [&](const py::handle& ids) {
        const Segment segment = make_segment(ids, k, held);
        if (segment.size > Permutation::largest - pool.size())
            throw std::invalid_argument(pool_name(k) + "more than 2^62 ids");
        pool.append(segment);
    };
    const py::object ids = parts[0];
    if (is_list_of_segments(ids))
        for (const py::handle part : ids) append(part);
    else append(ids);
    if (parts.size() == 3) set_weights(pool, py::object(parts[2]), k, held);
    return pool;
}

namespace {

// An Order and the arrays that it points into.
class HeldOrder {
public:
    HeldOrder(const py::sequence& pools, const py::int_& seed, const py::int_& epoch) {
        std::vector<Pool> members;
        for (size_t k = 0; k < pools.size(); ++k)
            members.push_back(make_pool(py::object(pools[k]), k, held_));
        const uint64_t key = whole(seed, "seed", 64);
        const auto which = uint32_t(whole(epoch, "epoch", 32));
        const py::gil_scoped_release release;
        order_ = std::make_unique<Order>(std::move(members), key, which);
    }

    uint64_t total() const { return order_->total(); }

    Ids ids(const py::int_& start, const py::int_& count, const py::int_& rank, const py::int_& world) const {
        const Slice slice{whole(start, "start", 62), whole(count, "count", 62), whole(rank, "rank", 32),
                          whole(world, "world", 32)};
        if (slice.rank >= slice.world)
            throw std::invalid_argument("rank is " + text(rank) + " of world " + text(world) +
                                        "; it must be below world");
        Ids out(py::ssize_t(order_->length(slice)));
        int64_t* data = out.mutable_data();
        const py::gil_scoped_release release;
        order_->fill(slice, data);
        return out;
    }

private:
    Held held_;
    std::unique_ptr<Order> order_;
};

}  // namespace

static Ids order(const py::sequence& pools, const py::int_& seed, const py::int_& epoch,
                 const py::int_& start, const py::int_& count, const py::int_& rank, const py::int_& world) {
    return HeldOrder(pools, seed, epoch).ids(start, count, rank, world);
}

static py::array_t<uint32_t> draws(const py::int_& seed, const py::int_& epoch, const py::handle& positions) {
    const uint64_t key = whole(seed, "seed", 64);
    const auto which = uint32_t(whole(epoch, "epoch", 32));
    const Ids places =
        py::array_t<int64_t, py::array::c_style | py::array::forcecast>::ensure(integers(positions, 0));
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

void bind_order(py::module_& module) {
    module.def("order", &order, py::arg("pools"), py::arg("seed"), py::arg("epoch"), py::arg("start"),
               py::arg("count"), py::arg("rank") = 0, py::arg("world") = 1);
    py::class_<HeldOrder>(module, "Order")
        .def(py::init<const py::sequence&, const py::int_&, const py::int_&>(), py::arg("pools"),
             py::arg("seed"), py::arg("epoch"))
        .def("ids", &HeldOrder::ids, py::arg("start"), py::arg("count"), py::arg("rank") = 0,
             py::arg("world") = 1)
        .def_property_readonly("total", &HeldOrder::total);
    module.def("philox", &draws, py::arg("seed"), py::arg("epoch"), py::arg("positions"));
    module.def("philox4x32", &philox_block, py::arg("counter"), py::arg("key"));
}

}  // namespace discl
