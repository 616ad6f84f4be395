#include "render.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <system_error>
#include <thread>

#define DISCL_INLINE [[gnu::always_inline]] static inline

namespace discl {

using Four = float __attribute__((vector_size(16)));

DISCL_INLINE Four load(const float* from) {
    Four values;
    std::memcpy(&values, from, sizeof values);
    return values;
}

// The weighted sum of rows, from the value `begin` to the value `end`; two rows at a time.
DISCL_INLINE void mix_rows(float* out, const uint8_t* const* rows, const float* weights, int count, int begin,
                           int end) {
    for (int k = 0; k < count; k += 2) {
        const bool paired = k + 1 < count;
        const uint8_t *const row = rows[k], *const next = rows[k + paired];
        const float weight = weights[k], of_next = paired ? weights[k + 1] : 0;
        if (k)
            for (int j = begin; j < end; ++j) out[j] += weight * float(row[j]) + of_next * float(next[j]);
        else
            for (int j = begin; j < end; ++j) out[j] = weight * float(row[j]) + of_next * float(next[j]);
    }
}

DISCL_INLINE void store(float* to, Four values) { std::memcpy(to, &values, sizeof values); }

DISCL_INLINE Four pixel(const float* from, const float* weights, int count, int channels) {
    Four sum = {};
    for (int k = 0; k < count; ++k, from += channels) sum += weights[k] * load(from);
    return sum;
}

// The first two values of both, or the last two, in turn; compilers make one instruction of each.
DISCL_INLINE Four begins(Four a, Four b) { return Four{a[0], b[0], a[1], b[1]}; }
DISCL_INLINE Four ends(Four a, Four b) { return Four{a[2], b[2], a[3], b[3]}; }

// To the nearest of 0..255, then as the view wants them. A float that 1.5 * 2^23 was added to has no fraction.
DISCL_INLINE Four finished(Four values, float mean, float per_deviation) {
    constexpr float whole = 12'582'912;
    const Four least = {}, most = least + 255;
    values = values > least ? values : least;
    values = values < most ? values : most;
    return (((values + whole) - whole) - mean) * per_deviation;
}

// A row of pixels to `out`, [channels, room]: four output pixels at a time, first one to a vector, then one channel.
template <int channels>
DISCL_INLINE void mix_columns(float* out, size_t room, const float* row, const Taps& taps, int count,
                              const View& view) {
    for (size_t x = 0; x < room; x += 4) {
        Four pixels[4];
        for (size_t i = 0; i < 4; ++i) {
            const size_t place = std::min(x + i, size_t(view.size) - 1);
            const float* const weights = &taps.weights[place * size_t(count)];
            pixels[i] = pixel(row + channels * taps.first[place], weights, count, channels);
        }
        const Four low = begins(pixels[0], pixels[1]), low_next = begins(pixels[2], pixels[3]),
                   high = ends(pixels[0], pixels[1]), high_next = ends(pixels[2], pixels[3]);
        const Four planes[] = {{low[0], low[1], low_next[0], low_next[1]},
                               {low[2], low[3], low_next[2], low_next[3]},
                               {high[0], high[1], high_next[0], high_next[1]}};
        for (size_t c = 0; c < channels; ++c)
            store(out + c * room + x, finished(planes[c], view.mean[c], view.per_deviation[c]));
    }
}

// Rows first: what they are made of lies side by side, and the sums stay in the first cache.
template <int channels>
DISCL_INLINE void render_rows(const View& view, const Picture& picture, const Taps& across, const Taps& down,
                              float* out) {
    const size_t size = size_t(view.size), room = (size + 3) / 4 * 4;
    const auto [left, right] = std::minmax(across.first.front(), across.first.back());
    const int begin = channels * left, end = channels * std::min(right + across.count, picture.width);
    std::vector<float> row(size_t(channels * (right + across.count)) + 4), mixed(channels * room);
    std::vector<const uint8_t*> rows(size_t(down.count));
    for (size_t y = 0; y < size; ++y) {
        for (int k = 0; k < down.count; ++k)
            rows[size_t(k)] = picture.pixels + size_t(std::min(down.first[y] + k, picture.height - 1)) *
                                                   size_t(picture.width * channels);
        mix_rows(row.data(), rows.data(), &down.weights[y * size_t(down.count)], down.count, begin, end);
        const auto mix = [&](int count) { mix_columns<channels>(mixed.data(), room, row.data(), across, count, view); };
        switch (across.count) {  // known numbers are unrolled: half the time
            case 2: mix(2); break;
            case 3: mix(3); break;
            case 4: mix(4); break;
            default: mix(across.count);
        }
        for (size_t c = 0; c < channels; ++c)
            std::memcpy(out + (c * size + y) * size, &mixed[c * room], size * sizeof(float));
    }
}

DISCL_INLINE void render_channels(const View& view, const Picture& picture, const Taps& across, const Taps& down,
                                  float* out) {
    if (view.channels() == 1) render_rows<1>(view, picture, across, down, out);
    else render_rows<3>(view, picture, across, down, out);
}

using Render = void(const View&, const Picture&, const Taps&, const Taps&, float*);

static void render_anywhere(const View& view, const Picture& picture, const Taps& across, const Taps& down,
                            float* out) {
    render_channels(view, picture, across, down, out);
}

#if defined(__x86_64__)
// Without FMA: the same bits on every x86.
__attribute__((target("avx2"))) static void render_avx2(const View& view, const Picture& picture,
                                                        const Taps& across, const Taps& down, float* out) {
    render_channels(view, picture, across, down, out);
}

static Render* fastest() { return __builtin_cpu_supports("avx2") ? render_avx2 : render_anywhere; }
#else
static Render* fastest() { return render_anywhere; }
#endif

void render(const View& view, const Picture& picture, float* out) {
    static Render* const render_taps = fastest();
    Taps across(view.filter, picture.left * picture.width, picture.right * picture.width, picture.width, view.size);
    const Taps down(view.filter, picture.top * picture.height, picture.bottom * picture.height, picture.height,
                    view.size);
    if (picture.flipped) across.reverse();
    render_taps(view, picture, across, down, out);
}

void render(const View& view, const std::vector<Picture>& pictures, float* out, unsigned threads) {
    const size_t values = size_t(view.channels()) * size_t(view.size) * size_t(view.size);
    std::atomic<size_t> next{0};
    const auto work = [&] {
        for (size_t i; (i = next++) < pictures.size();) render(view, pictures[i], out + i * values);
    };
    std::vector<std::thread> others;
    try {
        for (size_t i = 1; i < std::min<size_t>(threads, pictures.size()); ++i) others.emplace_back(work);
    } catch (const std::system_error&) {  // the threads that there are do it
    }
    work();
    for (std::thread& other : others) other.join();
}

}  // namespace discl
