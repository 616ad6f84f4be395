// The order of an epoch as a pure function: pools, seed, epoch and position in, int64 ids out.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "permutation.h"
#include "pool.h"
#include "searches.h"
#include "strata.h"

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
        Draws(uint64_t seed, uint32_t epoch) : strata(seed, epoch) { pool.fill(SIZE_MAX); }

        size_t count;
        std::array<size_t, lanes> pool;
        PermutationLanes within;  // the permutation of each lane's pool
        StrataLanes strata;       // and the strata of its weight
        Words number, place;      // which of the pool's draws, and what an even draw gives
    };

    uint64_t first_position(const Slice& slice) const;
    void set_pool(Draws& draws, size_t lane, size_t k) const;
    void draw(uint64_t position, uint64_t stride, Draws& draws) const;
    void look_up(const Draws& draws, Searches& searches, int64_t* out) const;

    std::vector<Pool> pools_;
    uint64_t seed_;
    uint32_t epoch_;
    Ends quotas_;
    std::vector<Permutation> within_;
    std::vector<std::unique_ptr<Weights>> weights_;  // null for an even pool
    std::vector<Strata> strata_;                     // of no units for an even pool
    bool any_weighted_ = false;
    PermutationLanes across_;  // one permutation in all lanes
};

}  // namespace discl
