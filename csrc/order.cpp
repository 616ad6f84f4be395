#include "order.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "prefetch.h"

namespace discl {

static Ends checked_quotas(const std::vector<Pool>& pools) {
    Ends quotas;
    for (size_t k = 0; k < pools.size(); ++k) {
        const uint64_t quota = pools[k].quota, size = pools[k].size();
        const std::string name = "pool " + std::to_string(k) + ": ";
        if (quota && !size)
            throw std::invalid_argument(name + "a quota of " + std::to_string(quota) + " on an empty pool");
        if (quota > Permutation::largest - quotas.total() || size > Permutation::largest)
            throw std::invalid_argument(name + "sizes and the sum of quotas must stay below 2^62");
        quotas.append(quota);
    }
    return quotas;
}

static std::unique_ptr<Weights> weights_of(const Pool& pool, size_t k) {
    if (!pool.weights || !pool.quota) return nullptr;
    try {
        return std::make_unique<Weights>(pool);
    } catch (const std::invalid_argument& error) {
        throw std::invalid_argument("pool " + std::to_string(k) + ": " + error.what());
    }
}

Order::Order(std::vector<Pool> pools, uint64_t seed, uint32_t epoch)
    : pools_(std::move(pools)),
      seed_(seed),
      epoch_(epoch),
      quotas_(checked_quotas(pools_)) {
    const Permutation across(quotas_.total(), seed, epoch, 0);
    for (size_t j = 0; j < lanes; ++j) across_.set(j, across);
    for (size_t k = 0; k < pools_.size(); ++k) {
        within_.emplace_back(pools_[k].size(), seed, epoch, uint32_t(k + 1));
        weights_.push_back(weights_of(pools_[k], k));
        any_weighted_ |= bool(weights_.back());
        strata_.push_back(weights_[k] ? Strata(k, weights_[k]->total(), pools_[k].quota) : Strata());
    }
}

uint64_t Order::first_position(const Slice& slice) const {
    return slice.start + (slice.rank + slice.world - slice.start % slice.world) % slice.world;
}

uint64_t Order::length(const Slice& slice) const {
    if (slice.start >= total()) return 0;
    const uint64_t end = slice.start + std::min(slice.count, total() - slice.start);
    const uint64_t first = first_position(slice);
    return first < end ? (end - first + slice.world - 1) / slice.world : 0;
}

void Order::set_pool(Draws& draws, size_t lane, size_t k) const {
    draws.pool[lane] = k;
    draws.within.set(lane, within_[k]);
    if (any_weighted_) draws.strata.set(lane, strata_[k]);
}

void Order::draw(uint64_t position, uint64_t stride, Draws& draws) const {
    Words pass{};
    for (size_t j = 0; j < draws.count; ++j) draws.place[j] = position + j * stride;
    across_.permute(draws.place.data(), pass.data(), draws.count);
    bool even = false;
    for (size_t j = 0; j < draws.count; ++j) {
        const size_t k = quotas_.piece(draws.place[j]);
        if (draws.pool[j] != k) set_pool(draws, j, k);
        even |= !weights_[k];
        const uint64_t number = draws.place[j] - quotas_.begin(k), size = pools_[k].size();
        pass[j] = number < size ? 0 : number / size;
        draws.number[j] = number, draws.place[j] = number - pass[j] * size;
    }
    if (even) draws.within.permute(draws.place.data(), pass.data(), draws.count);
}

void Order::look_up(const Draws& draws, Searches& searches, int64_t* out) const {
    for (size_t j = 0; j < draws.count; ++j)
        if (!weights_[draws.pool[j]]) prefetch(pools_[draws.pool[j]].where(draws.place[j]));
    Words unit;
    if (any_weighted_) draws.strata.draw(draws.number.data(), unit.data(), draws.count);
    for (size_t j = 0; j < draws.count; ++j)
        if (const Weights* weights = weights_[draws.pool[j]].get())
            searches.begin(*weights, unit[j], out + j);
        else out[j] = pools_[draws.pool[j]][draws.place[j]];
}

void Order::fill(const Slice& slice, int64_t* out) const {
    const uint64_t first = first_position(slice), length = this->length(slice);
    Draws draws(seed_, epoch_);
    Searches searches;
    for (uint64_t begin = 0; begin < length; begin += draws.count) {
        draws.count = std::min<uint64_t>(lanes, length - begin);
        draw(first + begin * slice.world, slice.world, draws);
        look_up(draws, searches, out + begin);
    }
    searches.finish();
}

}  // namespace discl
