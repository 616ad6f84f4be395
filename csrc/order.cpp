#include "order.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace discl {

static uint64_t checked_total(const std::vector<Pool>& pools) {
    uint64_t total = 0;
    for (size_t k = 0; k < pools.size(); ++k) {
        const Pool& pool = pools[k];
        const std::string name = "pool " + std::to_string(k) + ": ";
        if (pool.quota && !pool.size)
            throw std::invalid_argument(name + "a quota of " + std::to_string(pool.quota) +
                                        " on an empty pool");
        if (pool.quota > Permutation::largest - total || pool.size > Permutation::largest)
            throw std::invalid_argument(name + "sizes and the sum of quotas must stay below 2^62");
        total += pool.quota;
    }
    return total;
}

Order::Order(std::vector<Pool> pools, uint64_t seed, uint32_t epoch)
    : pools_(std::move(pools)), total_(checked_total(pools_)), across_(total_, seed, epoch, 0) {
    uint64_t end = 0;
    for (size_t k = 0; k < pools_.size(); ++k) {
        within_.emplace_back(pools_[k].size, seed, epoch, uint32_t(k + 1));
        ends_.push_back(end += pools_[k].quota);
    }
    while (ends_.size() & (ends_.size() - 1)) ends_.push_back(UINT64_MAX);
}

uint64_t Order::first_position(const Slice& slice) const {
    return slice.start + (slice.rank + slice.world - slice.start % slice.world) % slice.world;
}

uint64_t Order::length(const Slice& slice) const {
    if (slice.start >= total_) return 0;
    const uint64_t end = slice.start + std::min(slice.count, total_ - slice.start);
    const uint64_t first = first_position(slice);
    return first < end ? (end - first + slice.world - 1) / slice.world : 0;
}

// The number of ends <= slot; a branchless halving, since random slots defeat branch prediction.
size_t Order::pool_of(uint64_t slot) const {
    size_t k = 0;
    for (size_t half = ends_.size() / 2; half; half /= 2) k += ends_[k + half - 1] <= slot ? half : 0;
    return k;
}

template <int lanes>
void Order::fill_lanes(uint64_t position, uint64_t stride, int64_t* out) const {
    const Permutation* who[lanes];
    const Pool* pool[lanes];
    uint64_t index[lanes], pass[lanes] = {};
    for (int j = 0; j < lanes; ++j) index[j] = position + uint64_t(j) * stride, who[j] = &across_;
    Permutation::permute(who, index, pass);
    for (int j = 0; j < lanes; ++j) {
        const size_t k = pool_of(index[j]);
        pool[j] = &pools_[k];
        who[j] = &within_[k];
        index[j] -= ends_[k] - pool[j]->quota;
        pass[j] = index[j] < pool[j]->size ? 0 : index[j] / pool[j]->size;
        index[j] -= pass[j] * pool[j]->size;
    }
    Permutation::permute(who, index, pass);
    for (int j = 0; j < lanes; ++j) out[j] = (*pool[j])[index[j]];
}

void Order::fill(const Slice& slice, int64_t* out) const {
    constexpr int lanes = 8;
    const uint64_t first = first_position(slice), length = this->length(slice);
    uint64_t i = 0;
    for (; i + lanes <= length; i += lanes) fill_lanes<lanes>(first + i * slice.world, slice.world, out + i);
    for (; i < length; ++i) fill_lanes<1>(first + i * slice.world, slice.world, out + i);
}

}  // namespace discl
