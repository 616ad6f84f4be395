// Stratified draws: the units of a pool's weight are cut into `quota` equal strata, and draw d falls,
// uniformly, into stratum d.
//
// So an id's expected number of draws is exactly quota * weight / sum, its actual number is less than 2 from
// it, and with equal weights and a whole number of passes every id comes equally often.
#pragma once

#include <cstddef>
#include <cstdint>

#include "vectors.h"

namespace discl {

// One pool's: `quota` draws from `total` units, both below 2^63; `pool` sets their random numbers apart.
struct Strata {
    Strata() = default;  // of no units
    Strata(size_t pool, uint64_t total, uint64_t quota);

    uint64_t use = 0, total = 0, quota = 1;
    uint64_t whole = 0, rest = 0;       // total / quota and what remains
    uint64_t reciprocal = UINT64_MAX;  // of quota, in units of 2^-64
};

// Those of a pool for each lane.
class StrataLanes {
public:
    StrataLanes(uint64_t seed, uint32_t epoch) : seed_(seed), epoch_(epoch) {}

    void set(size_t lane, const Strata& strata);

    // unit[j] becomes where draw number[j] falls, for j < count.
    void draw(const uint64_t* number, uint64_t* unit, size_t count, Vectors vectors = widest_vectors()) const;

private:
    void draw_short(const uint64_t* number, uint64_t* unit, size_t count) const;
    void draw_avx2(const uint64_t* number, uint64_t* unit, size_t count) const;
    void draw_avx512(const uint64_t* number, uint64_t* unit, size_t count) const;

    uint64_t seed_;
    uint32_t epoch_;
    bool short_ = true;  // all quotas are below 2^31
    alignas(64) Words use_, total_, quota_, whole_, rest_, reciprocal_;
};

}  // namespace discl
