// Windows of 8-bit images in, float32 planes of one size out: resampled, rounded, perhaps flipped, normalised.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "taps.h"

namespace discl {

// How an image is to reach a classifier. One mean and one reciprocal deviation for each channel, of values 0..255.
struct View {
    int size;
    Filter filter;
    std::vector<float> mean, per_deviation;

    int channels() const { return int(mean.size()); }  // 1 or 3
};

// Pixels [height, width, channels of the view], and the window as shares of width and height.
struct Picture {
    const uint8_t* pixels;
    int width, height;
    double left, top, right, bottom;
    bool flipped;
};

// To `out`, [channels, size, size].
void render(const View& view, const Picture& picture, float* out);

// The same for many, in `threads` threads: [n, channels, size, size].
void render(const View& view, const std::vector<Picture>& pictures, float* out, unsigned threads);

}  // namespace discl
