#include "weights.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "prefetch.h"

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

// So that a block's weights, where they lie side by side, fill a cache line.
uint64_t Weights::skew(const Segment& segment) const {
    const auto address = reinterpret_cast<uintptr_t>(pool_->weights + segment.first);
    return segment.step == 1 ? address / sizeof(float) % block : 0;
}

void Weights::sum_blocks() {
    uint64_t sum = 0;
    for (const Segment& segment : pool_->segments)
        blocks_.append(segment.size ? (segment.size + skew(segment) + block - 1) / block : 0);
    const uint64_t blocks = blocks_.total();
    begins_.reserve(blocks + 1 + near);
    for (const Segment& segment : pool_->segments) {
        const uint64_t skewed = skew(segment);
        each(segment, [&](uint64_t i, int64_t id) {
            if (!i || (i + skewed) % block == 0) begins_.push_back(sum);
            sum += units(weight(id));
        });
    }
    begins_.resize(blocks + 1 + near, sum);
}

void Weights::make_guide() {
    const uint64_t blocks = blocks_.total();
    while (total() >> shift_ >= std::max<uint64_t>(blocks, 2)) ++shift_;
    guide_.resize((total() >> shift_) + 2);
    uint32_t which = 0;
    for (uint64_t cell = 0; cell < guide_.size(); ++cell) {
        while (which + 1 < blocks && begins_[which + 1] <= cell << shift_) ++which;
        guide_[cell] = which;
    }
}

void Weights::find_cell(Search& search) const {
    search.first = search.unit >> shift_;
    prefetch(&guide_[search.first]);
}

void Weights::find_blocks(Search& search) const {
    const uint64_t cell = search.first;
    search.first = guide_[cell], search.last = guide_[cell + 1];
    prefetch(&begins_[search.first]);
    prefetch(&begins_[search.first + near]);
}

void Weights::find_block(Search& search) const {
    const uint64_t* const begins = begins_.data() + search.first;
    uint64_t after = 0;  // the last block that begins at or below the unit; few are counted without a branch
    if (const uint64_t others = search.last - search.first; others <= near)
        for (uint64_t k = 1; k <= near; ++k) after += begins[k] <= search.unit;
    else after = uint64_t(std::upper_bound(begins + 1, begins + 1 + others, search.unit) - (begins + 1));
    search.unit -= begins[after];
    const uint64_t which = search.first + after;
    const size_t k = blocks_.piece(which);
    search.segment = &pool_->segments[k];
    const uint64_t begin = (which - blocks_.begin(k)) * block, skewed = skew(*search.segment);
    search.first = std::max(begin, skewed) - skewed;
    search.last = std::min(begin + block - skewed, search.segment->size) - 1;
    prefetch(search.segment->where(search.first));
    prefetch(search.segment->where(search.last));
}

void Weights::reach_weights(const Search& search) const {
    const Segment& segment = *search.segment;
    const uint64_t stride = segment.step == 1 ? std::max<uint64_t>(search.last - search.first, 1) : 1;
    for (uint64_t i = search.first; i <= search.last; i += stride)
        prefetch(pool_->weights + segment[i]);
}

int64_t Weights::owner(const Search& search) const {
    const Segment& segment = *search.segment;
    const uint64_t i = search.first, size = search.last + 1 - i;
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
