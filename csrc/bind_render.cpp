// Rendering in Python: numpy images and windows in, one float32 array out.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>

#include "arena.h"
#include "bind.h"
#include "render.h"

namespace discl {

using Pixels = py::array_t<uint8_t, py::array::c_style | py::array::forcecast>;
using Boxes = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Flags = py::array_t<bool, py::array::c_style | py::array::forcecast>;
using Planes = py::array_t<float, py::array::c_style>;

static Filter filter_of(const std::string& name) {
    if (name == "linear") return Filter::linear;
    if (name == "cubic") return Filter::cubic;
    if (name == "lanczos") return Filter::lanczos;
    throw std::invalid_argument("filter '" + name + "': expected linear, cubic or lanczos");
}

namespace {

class Renderer {
public:
    Renderer(int size, const std::string& filter, std::vector<float> mean, const std::vector<float>& deviation,
             unsigned threads)
        : view_{size, filter_of(filter), std::move(mean), {}}, threads_(threads) {
        const size_t channels = view_.mean.size();
        if (size < 1 || (channels != 1 && channels != 3) || deviation.size() != channels)
            throw std::invalid_argument("a view has a size of at least 1, and 1 or 3 means and deviations");
        for (const float value : deviation) view_.per_deviation.push_back(1 / value);
    }

    Planes render(const std::vector<Pixels>& images, const Boxes& boxes, const Flags& flipped,
                  std::optional<Planes> out) {
        const auto count = py::ssize_t(images.size());
        if (boxes.ndim() != 2 || boxes.shape(0) != count || boxes.shape(1) != 4 || flipped.ndim() != 1 ||
            flipped.shape(0) != count)
            throw std::invalid_argument("there must be 4 sides and a flip for each of " + std::to_string(count) +
                                        " images");
        std::vector<Picture> pictures;
        for (py::ssize_t i = 0; i < count; ++i) pictures.push_back(picture(images[size_t(i)], i, boxes, flipped));
        const std::vector<py::ssize_t> shape{count, view_.channels(), view_.size, view_.size};
        if (!out) out = lent(shape);
        else if (!std::equal(shape.begin(), shape.end(), out->shape(), out->shape() + out->ndim()))
            throw std::invalid_argument("out is not [images, channels, size, size] of these images and this view");
        float* const to = out->mutable_data();
        {
            const py::gil_scoped_release release;
            discl::render(view_, pictures, to, threads_);
        }
        return *out;
    }

private:
    // Memory that serves again when the array is gone.
    Planes lent(const std::vector<py::ssize_t>& shape) {
        auto memory = std::make_unique<std::shared_ptr<Arena>>(arenas_.lend());
        uint64_t bytes = sizeof(float);
        for (const py::ssize_t side : shape) bytes *= uint64_t(side);
        auto* const values = reinterpret_cast<float*>((*memory)->take(bytes));
        const py::capsule owner(memory.release(), [](void* held) { delete static_cast<std::shared_ptr<Arena>*>(held); });
        return Planes(shape, values, owner);
    }

    Picture picture(const Pixels& image, py::ssize_t i, const Boxes& boxes, const Flags& flipped) const {
        if (image.ndim() != 3 || image.shape(2) != view_.channels() || !image.size())
            throw std::invalid_argument("image " + std::to_string(i) + " is not [height, width, " +
                                        std::to_string(view_.channels()) + "]");
        const float left = boxes.at(i, 0), top = boxes.at(i, 1), right = boxes.at(i, 2), bottom = boxes.at(i, 3);
        if (!(0 <= left && left < right && right <= 1 && 0 <= top && top < bottom && bottom <= 1))
            throw std::invalid_argument("window " + std::to_string(i) + " is no part of its image");
        return {image.data(), int(image.shape(1)), int(image.shape(0)), left, top, right, bottom, flipped.at(i)};
    }

    View view_;
    unsigned threads_;
    Arenas arenas_;
};

}  // namespace

void bind_render(py::module_& module) {
    py::class_<Renderer>(module, "Renderer")
        .def(py::init<int, std::string, std::vector<float>, std::vector<float>, unsigned>(), py::arg("size"),
             py::arg("filter"), py::arg("mean"), py::arg("std"), py::arg("threads") = 1)
        .def("render", &Renderer::render, py::arg("images"), py::arg("boxes"), py::arg("flipped"),
             py::arg("out").noconvert() = py::none());
}

}  // namespace discl
