#include "strata.h"

#include "philox.h"

namespace discl {

Strata::Strata(size_t pool, uint64_t total, uint64_t quota)
    : use(uint32_t(Use::weight) | uint32_t(pool) << 8),
      total(total),
      quota(quota),
      whole(total / quota),
      rest(total % quota),
      reciprocal(UINT64_MAX / quota) {}

void StrataLanes::set(size_t lane, const Strata& strata) {
    use_[lane] = strata.use, total_[lane] = strata.total, quota_[lane] = strata.quota;
    whole_[lane] = strata.whole, rest_[lane] = strata.rest, reciprocal_[lane] = strata.reciprocal;
    short_ &= strata.quota >> 31 == 0;
}

static DISCL_INLINE uint64_t random_word(uint64_t number, uint32_t epoch, uint64_t use, PhiloxKey key) {
    const Block words = philox4x32({uint32_t(number), uint32_t(number >> 32), epoch, uint32_t(use)}, key);
    return words[0] | uint64_t{words[1]} << 32;
}

// number * total / quota in 64 bits: number * whole, and number * rest / quota, whose product is below 2^62.
DISCL_INLINE void StrataLanes::draw_short(const uint64_t* number, uint64_t* unit, size_t count) const {
    const PhiloxKey key = philox_key(seed_);
    for (size_t j = 0; j < count; ++j) {
        const uint64_t within = Halves::high(random_word(number[j], epoch_, use_[j], key), total_[j]);
        const uint64_t sum = number[j] * rest_[j] + within;
        const uint64_t quotient = Halves::high(sum, reciprocal_[j]);  // or one too few
        unit[j] = number[j] * whole_[j] + quotient + (sum - quotient * quota_[j] >= quota_[j] ? 1 : 0);
    }
}

DISCL_AVX2 void StrataLanes::draw_avx2(const uint64_t* number, uint64_t* unit, size_t count) const {
    draw_short(number, unit, count);
}

DISCL_AVX512 void StrataLanes::draw_avx512(const uint64_t* number, uint64_t* unit, size_t count) const {
    draw_short(number, unit, count);
}

void StrataLanes::draw(const uint64_t* number, uint64_t* unit, size_t count, Vectors vectors) const {
    if (short_ && vectors == Vectors::avx512) return draw_avx512(number, unit, count);
    if (short_ && vectors == Vectors::avx2) return draw_avx2(number, unit, count);
    const PhiloxKey key = philox_key(seed_);
    for (size_t j = 0; j < count; ++j) {
        const uint64_t within = Wide::high(random_word(number[j], epoch_, use_[j], key), total_[j]);
        unit[j] = uint64_t((uint128_t{number[j]} * total_[j] + within) / quota_[j]);
    }
}

}  // namespace discl
