#include "order.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace discl {

constexpr size_t chunk = 64;  // ids whose cache misses overlap

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
      quotas_(checked_quotas(pools_)),
      across_(quotas_.total(), seed, epoch, 0) {
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

template <int lanes>
void Order::draw(uint64_t position, uint64_t stride, Draw* out) const {
    const Permutation* who[lanes];
    uint64_t index[lanes], pass[lanes] = {};
    for (int j = 0; j < lanes; ++j) index[j] = position + uint64_t(j) * stride, who[j] = &across_;
    Permutation::permute(who, index, pass);
    bool even = false;
    for (int j = 0; j < lanes; ++j) {
        const size_t k = out[j].pool = quotas_.piece(index[j]);
        const uint64_t size = pools_[k].size();
        even |= !weights_[k];
        who[j] = &within_[k];
        index[j] = out[j].number = index[j] - quotas_.begin(k);
        pass[j] = index[j] < size ? 0 : index[j] / size;
        index[j] -= pass[j] * size;
    }
    if (even) Permutation::permute(who, index, pass);
    for (int j = 0; j < lanes; ++j) out[j].place = index[j];
}

// Stratified: the units of the pool's weight are cut into `quota` equal strata and draw d falls, uniformly,
// into stratum d. So an id's expected number of draws is exactly quota * weight / sum, its actual number is
// less than 2 from it, and with equal weights and a whole number of passes every id comes equally often.
uint64_t Order::unit(const Draw& draw) const {
    const uint32_t use = uint32_t(Use::weight) | uint32_t(draw.pool) << 8;
    const Block words =
        philox4x32({uint32_t(draw.number), uint32_t(draw.number >> 32), epoch_, use}, philox_key(seed_));
    const uint64_t random = words[0] | uint64_t{words[1]} << 32, total = weights_[draw.pool]->total();
    const uint128_t within = uint128_t{random} * total >> 64;
    return uint64_t((uint128_t{draw.number} * total + within) / pools_[draw.pool].quota);
}

void Order::look_up_weighted(const Draw* draws, size_t count, int64_t* out) const {
    Weights::Search search[chunk];
    const Weights* weights[chunk];
    size_t place[chunk], found = 0;
    for (size_t j = 0; j < count; ++j)
        if ((weights[found] = weights_[draws[j].pool].get()))
            search[found].unit = unit(draws[j]), place[found++] = j;
    for (size_t j = 0; j < found; ++j) weights[j]->prefetch_guide(search[j]);
    for (size_t j = 0; j < found; ++j) weights[j]->find_cell(search[j]);
    for (size_t j = 0; j < found; ++j) weights[j]->find_block(search[j]);
    for (size_t j = 0; j < found; ++j) weights[j]->prefetch_weights(search[j]);
    for (size_t j = 0; j < found; ++j) out[place[j]] = weights[j]->owner(search[j]);
}

void Order::look_up(const Draw* draws, size_t count, int64_t* out) const {
    for (size_t j = 0; j < count; ++j)
        if (!weights_[draws[j].pool]) out[j] = pools_[draws[j].pool][draws[j].place];
    if (any_weighted_) look_up_weighted(draws, count, out);
}

void Order::fill(const Slice& slice, int64_t* out) const {
    constexpr uint64_t lanes = 8;
    const uint64_t first = first_position(slice), length = this->length(slice);
    Draw draws[chunk];
    for (uint64_t begin = 0; begin < length; begin += chunk) {
        const uint64_t count = std::min<uint64_t>(chunk, length - begin);
        const auto position = [&](uint64_t i) { return first + (begin + i) * slice.world; };
        uint64_t i = 0;
        for (; i + lanes <= count; i += lanes) draw<lanes>(position(i), slice.world, draws + i);
        for (; i < count; ++i) draw<1>(position(i), slice.world, draws + i);
        look_up(draws, count, out + begin);
    }
}

}  // namespace discl
