// The order of an epoch as a pure function: pools, seed, epoch and position in, int64 ids out.
#pragma once

#include <cstdint>
#include <vector>

#include "permutation.h"

namespace discl {

// `size` ids, either an array or an arithmetic range, of which an epoch draws `quota`.
struct Pool {
    const int64_t* ids;  // null: the range first, first + step, ...
    int64_t first, step;
    uint64_t size, quota;

    int64_t operator[](uint64_t i) const { return ids ? ids[i] : first + step * int64_t(i); }
};

// One rank's part of positions [start, start + count) of the global order.
struct Slice {
    uint64_t start, count, rank, world;
};

class Order {
public:
    // Throws std::invalid_argument for a quota on an empty pool and for more than 2^62 draws.
    Order(std::vector<Pool> pools, uint64_t seed, uint32_t epoch);

    uint64_t total() const { return total_; }
    uint64_t length(const Slice& slice) const;
    void fill(const Slice& slice, int64_t* out) const;  // out has room for length(slice)

private:
    uint64_t first_position(const Slice& slice) const;
    size_t pool_of(uint64_t slot) const;
    template <int lanes>
    void fill_lanes(uint64_t position, uint64_t stride, int64_t* out) const;

    std::vector<Pool> pools_;
    std::vector<uint64_t> ends_;  // cumulative quotas, padded to a power of two
    std::vector<Permutation> within_;
    uint64_t total_;
    Permutation across_;
};

}  // namespace discl
