// The order of an epoch as a pure function: pools, seed, epoch and position in, int64 ids out.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "permutation.h"
#include "pool.h"
#include "weights.h"

namespace discl {

// One rank's part of positions [start, start + count) of the global order.
struct Slice {
    uint64_t start, count, rank, world;
};

class Order {
public:
    // Throws std::invalid_argument for a quota on an empty pool, for more than 2^62 draws and for bad
    // weights.
    Order(std::vector<Pool> pools, uint64_t seed, uint32_t epoch);

    uint64_t total() const { return quotas_.total(); }
    uint64_t length(const Slice& slice) const;
    void fill(const Slice& slice, int64_t* out) const;  // out has room for length(slice)

private:
    // Draws side by side; their cache misses overlap.
    struct Draws {
        size_t count;
        std::array<size_t, Lanes::size> pool;
        Lanes within;                // the permutation of each lane's pool
        Lanes::Words number, place;  // which of the pool's draws, and what an even draw gives
    };

    uint64_t first_position(const Slice& slice) const;
    void draw(uint64_t position, uint64_t stride, Draws& draws) const;
    uint64_t unit(size_t pool, uint64_t number) const;
    void look_up(const Draws& draws, int64_t* out) const;
    void look_up_weighted(const Draws& draws, int64_t* out) const;

    std::vector<Pool> pools_;
    uint64_t seed_;
    uint32_t epoch_;
    Ends quotas_;
    std::vector<Permutation> within_;
    std::vector<std::unique_ptr<Weights>> weights_;  // null for an even pool
    bool any_weighted_ = false;
    Lanes across_;  // one permutation in all lanes
};

}  // namespace discl
