// What an epoch draws from: ranges and arrays of ids, laid end to end and never copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace discl {

// Pieces end to end: sizes in, the piece that holds a place out.
class Ends {
public:
    void append(uint64_t size);
    uint64_t total() const { return pieces_ ? ends_[pieces_ - 1] : 0; }
    uint64_t begin(size_t piece) const { return piece ? ends_[piece - 1] : 0; }

    // The number of ends <= place; a branchless halving, since random places defeat branch prediction.
    size_t piece(uint64_t place) const {
        size_t k = 0;
        for (size_t half = ends_.size() / 2; half; half /= 2) k += ends_[k + half - 1] <= place ? half : 0;
        return k;
    }

private:
    std::vector<uint64_t> ends_;  // cumulative sizes, padded to a power of two
    size_t pieces_ = 0;
};

// Ids as they lie in memory, or the range first, first + step, ...
struct Segment {
    const int64_t* wide = nullptr;
    const int32_t* narrow = nullptr;
    int64_t first = 0, step = 0;
    uint64_t size = 0;

    int64_t operator[](uint64_t i) const {
        return wide ? wide[i] : narrow ? narrow[i] : first + step * int64_t(i);
    }
    // Where it reads id i, for a prefetch.
    const void* where(uint64_t i) const {
        if (wide) return wide + i;
        if (narrow) return narrow + i;
        return this;
    }
};

// Segments of which an epoch draws `quota` ids. With `weights`, float32 [weight_count] by id, ids are drawn
// in proportion to theirs, else evenly.
struct Pool {
    std::vector<Segment> segments;
    uint64_t quota = 0;
    const float* weights = nullptr;
    uint64_t weight_count = 0;
    Ends ends;  // of the segments

    void append(const Segment& segment) {
        segments.push_back(segment);
        ends.append(segment.size);
    }
    uint64_t size() const { return ends.total(); }
    int64_t operator[](uint64_t place) const {
        const size_t k = ends.piece(place);
        return segments[k][place - ends.begin(k)];
    }
    const void* where(uint64_t place) const {
        const size_t k = ends.piece(place);
        return segments[k].where(place - ends.begin(k));
    }
};

}  // namespace discl
