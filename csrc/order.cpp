#include "order.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "philox.h"

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
    for (size_t j = 0; j < Lanes::size; ++j) across_.set(j, across);
    for (size_t k = 0; k < pools_.size(); ++k) {
        within_.emplace_back(pools_[k].size(), seed, epoch, uint32_t(k + 1));
        weights_.push_back(weights_of(pools_[k], k));
        any_weighted_ |= bool(weights_.back());
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

void Order::draw(uint64_t position, uint64_t stride, Draws& draws) const {
    Lanes::Words pass{};
    for (size_t j = 0; j < draws.count; ++j) draws.place[j] = position + j * stride;
    across_.permute(draws.place.data(), pass.data(), draws.count);
    bool even = false;
    for (size_t j = 0; j < draws.count; ++j) {
        const size_t k = quotas_.piece(draws.place[j]);
        if (draws.pool[j] != k) draws.pool[j] = k, draws.within.set(j, within_[k]);
        even |= !weights_[k];
        const uint64_t number = draws.place[j] - quotas_.begin(k), size = pools_[k].size();
        pass[j] = number < size ? 0 : number / size;
        draws.number[j] = number, draws.place[j] = number - pass[j] * size;
    }
    if (even) draws.within.permute(draws.place.data(), pass.data(), draws.count);
}

// Stratified: the units of the pool's weight are cut into `quota` equal strata and draw d falls, uniformly,
// into stratum d. So an id's expected number of draws is exactly quota * weight / sum, its actual number is
// less than 2 from it, and with equal weights and a whole number of passes every id comes equally often.
uint64_t Order::unit(size_t pool, uint64_t number) const {
    const uint32_t use = uint32_t(Use::weight) | uint32_t(pool) << 8;
    const Block words =
        philox4x32({uint32_t(number), uint32_t(number >> 32), epoch_, use}, philox_key(seed_));
    const uint64_t random = words[0] | uint64_t{words[1]} << 32, total = weights_[pool]->total();
    const uint128_t within = uint128_t{random} * total >> 64;
    return uint64_t((uint128_t{number} * total + within) / pools_[pool].quota);
}

void Order::look_up_weighted(const Draws& draws, int64_t* out) const {
    Weights::Search search[Lanes::size];
    const Weights* weights[Lanes::size];
    size_t place[Lanes::size], found = 0;
    for (size_t j = 0; j < draws.count; ++j)
        if ((weights[found] = weights_[draws.pool[j]].get()))
            search[found].unit = unit(draws.pool[j], draws.number[j]), place[found++] = j;
    for (size_t j = 0; j < found; ++j) weights[j]->prefetch_guide(search[j]);
    for (size_t j = 0; j < found; ++j) weights[j]->find_cell(search[j]);
    for (size_t j = 0; j < found; ++j) weights[j]->find_block(search[j]);
    for (size_t j = 0; j < found; ++j) weights[j]->prefetch_weights(search[j]);
    for (size_t j = 0; j < found; ++j) out[place[j]] = weights[j]->owner(search[j]);
}

void Order::look_up(const Draws& draws, int64_t* out) const {
    for (size_t j = 0; j < draws.count; ++j)
        if (!weights_[draws.pool[j]]) __builtin_prefetch(pools_[draws.pool[j]].where(draws.place[j]));
    for (size_t j = 0; j < draws.count; ++j)
        if (!weights_[draws.pool[j]]) out[j] = pools_[draws.pool[j]][draws.place[j]];
    if (any_weighted_) look_up_weighted(draws, out);
}

void Order::fill(const Slice& slice, int64_t* out) const {
    const uint64_t first = first_position(slice), length = this->length(slice);
    Draws draws;
    draws.pool.fill(SIZE_MAX);
    for (uint64_t begin = 0; begin < length; begin += draws.count) {
        draws.count = std::min<uint64_t>(Lanes::size, length - begin);
        draw(first + begin * slice.world, slice.world, draws);
        look_up(draws, out + begin);
    }
}

}  // namespace discl
