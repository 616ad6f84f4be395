#include "taps.h"

#include <algorithm>
#include <cmath>

namespace discl {

static double radius(Filter filter) {
    return filter == Filter::linear ? 1 : filter == Filter::cubic ? 2 : 3;
}

static double sinc(double x) {
    constexpr double pi = 3.14159265358979323846;
    return x ? std::sin(pi * x) / (pi * x) : 1;
}

static double weight(Filter filter, double x) {
    x = std::abs(x);
    if (x >= radius(filter)) return 0;
    if (filter == Filter::linear) return 1 - x;
    if (filter == Filter::lanczos) return sinc(x) * sinc(x / 3);
    return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : ((2.5 - 0.5 * x) * x - 4) * x + 2;  // Keys, a = -1/2
}

Taps::Taps(Filter filter, double begin, double end, int in, int out) {
    const double scale = (end - begin) / out, stretch = std::max(scale, 1.0), reach = radius(filter) * stretch;
    count = int(std::ceil(2 * reach));
    first.resize(size_t(out)), weights.resize(size_t(out) * size_t(count));
    for (int x = 0; x < out; ++x) {
        const double centre = begin + (x + 0.5) * scale - 0.5;
        const int low = int(std::ceil(centre - reach));
        float* const of_x = &weights[size_t(x) * size_t(count)];
        double sum = 0;
        for (int k = 0; k < count; ++k) sum += weight(filter, (low + k - centre) / stretch);
        first[size_t(x)] = std::clamp(low, 0, std::max(in - count, 0));
        for (int k = 0; k < count; ++k)
            of_x[std::clamp(low + k, 0, in - 1) - first[size_t(x)]] +=
                float(weight(filter, (low + k - centre) / stretch) / sum);
    }
}

void Taps::reverse() {
    std::reverse(first.begin(), first.end());
    const auto width = size_t(count);
    for (size_t x = 0, last = first.size() - 1; x < last; ++x, --last)
        std::swap_ranges(&weights[x * width], &weights[(x + 1) * width], &weights[last * width]);
}

}  // namespace discl
