// One axis of a resampling: for every output pixel, the input pixels that it is made of and their weights.
#pragma once

#include <vector>

namespace discl {

enum class Filter { linear, cubic, lanczos };

// Output pixel x is the sum over k < count of weights[x * count + k] times input pixel first[x] + k, where weights
// that are not 0 belong to pixels of the image. Those that reach over its border count for the border's pixel.
struct Taps {
    // `in` pixels, of which `begin` to `end` become `out`. The filter is widened where that makes the image smaller.
    Taps(Filter filter, double begin, double end, int in, int out);

    void reverse();  // the last output pixel comes first

    int count;
    std::vector<int> first;
    std::vector<float> weights;
};

}  // namespace discl
