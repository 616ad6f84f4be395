#include "weights.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace discl {

// visit(i, id) for every id of a segment; a loop per kind, so that each stays tight.
template <typename Visit>
static void each(const Segment& segment, Visit visit) {
    if (segment.wide)
        for (uint64_t i = 0; i < segment.size; ++i) visit(i, segment.wide[i]);
    else if (segment.narrow)
        for (uint64_t i = 0; i < segment.size; ++i) visit(i, segment.narrow[i]);
    else
        for (uint64_t i = 0; i < segment.size; ++i) visit(i, segment.first + segment.step * int64_t(i));
}

Weights::Weights(const Pool& pool) : pool_(&pool) {
    const float top = largest();
    if (!(top > 0)) throw std::invalid_argument("no weight is positive");
    int exponent, ids;
    std::frexp(top, &exponent), std::frexp(double(pool.size()), &ids);
    scale_ = std::ldexp(1.0, std::min(31, 62 - ids) - exponent);
    sum_blocks();
    make_guide();
}

float Weights::largest() const {
    float top = 0;
    for (const Segment& segment : pool_->segments)
        each(segment, [&](uint64_t, int64_t id) {
            const bool known = uint64_t(id) < pool_->weight_count;
            const float weight = known ? pool_->weights[id] : NAN;
            if (!(weight >= 0 && weight < INFINITY))
                throw std::invalid_argument(
                    "the weight of id " + std::to_string(id) +
                    (known ? " is " + std::to_string(weight) + "; weights must be finite and not negative"
                           : " is missing: there are " + std::to_string(pool_->weight_count)));
            top = std::max(top, weight);
        });
    return top;
}

void Weights::sum_blocks() {
    uint64_t sum = 0, blocks = 0;
    for (const Segment& segment : pool_->segments) blocks += (segment.size + block - 1) / block;
    ends_.reserve(blocks);
    for (const Segment& segment : pool_->segments) {
        const size_t before = ends_.size();
        each(segment, [&](uint64_t i, int64_t id) {
            if (i % block == 0) ends_.push_back(0);
            ends_.back() = sum += units(weight(id));
        });
        blocks_.append(ends_.size() - before);
    }
}

void Weights::make_guide() {
    while (total() >> shift_ >= std::max<size_t>(ends_.size(), 2)) ++shift_;
    guide_.resize((total() >> shift_) + 2);
    uint32_t which = 0;
    for (uint64_t cell = 0; cell < guide_.size(); ++cell) {
        while (which + 1 < ends_.size() && ends_[which] <= cell << shift_) ++which;
        guide_[cell] = which;
    }
}

void Weights::find_cell(Search& search) const {
    const uint64_t cell = search.unit >> shift_;
    search.first = guide_[cell], search.last = guide_[cell + 1];
    __builtin_prefetch(&ends_[search.first]);
}

void Weights::find_block(Search& search) const {
    const auto begin = ends_.begin();
    const auto found =
        std::upper_bound(begin + int64_t(search.first), begin + int64_t(search.last), search.unit);
    search.first = uint64_t(found - begin);
    search.unit -= search.first ? ends_[search.first - 1] : 0;
    uint64_t i;
    const Segment& segment = place_of(search.first, i);
    const uint64_t last = std::min(i + block, segment.size) - 1;
    for (const uint64_t end : {i, last}) __builtin_prefetch(segment.where(end));
}

void Weights::prefetch_weights(const Search& search) const {
    uint64_t i;
    const Segment& segment = place_of(search.first, i);
    const uint64_t end = std::min(i + block, segment.size);
    const uint64_t stride = segment.step == 1 ? std::max<uint64_t>(end - i - 1, 1) : 1;
    for (; i < end; i += stride) __builtin_prefetch(pool_->weights + segment[i]);
}

const Segment& Weights::place_of(uint64_t which, uint64_t& place) const {
    const size_t k = blocks_.piece(which);
    place = (which - blocks_.begin(k)) * block;
    return pool_->segments[k];
}

int64_t Weights::owner(const Search& search) const {
    uint64_t i;
    const Segment& segment = place_of(search.first, i);
    const uint64_t size = std::min(block, segment.size - i);
    uint32_t owned[block];
    if (segment.step == 1)
        for (uint64_t j = 0; j < size; ++j) owned[j] = units(pool_->weights[uint64_t(segment.first) + i + j]);
    else
        for (uint64_t j = 0; j < size; ++j) owned[j] = units(weight(segment[i + j]));
    // Whatever has become of the weights since they were summed, an id of this block is found.
    uint64_t sum = 0, before = 0;
    for (uint64_t j = 0; j + 1 < size; ++j) before += (sum += owned[j]) <= search.unit;
    return segment[i + before];
}

}  // namespace discl
