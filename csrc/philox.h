// Philox4x32-10 (Salmon et al., SC 2011): counter and key in, four 32-bit random words out. No state.
#pragma once

#include <array>
#include <cstdint>

namespace discl {

using Block = std::array<uint32_t, 4>;
using PhiloxKey = std::array<uint32_t, 2>;

inline Block philox4x32(Block counter, PhiloxKey key) {
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = uint64_t{0xD2511F53} * counter[0];
        const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
        counter = {uint32_t(b >> 32) ^ counter[1] ^ key[0], uint32_t(b),
                   uint32_t(a >> 32) ^ counter[3] ^ key[1], uint32_t(a)};
        key = {key[0] + 0x9E3779B9, key[1] + 0xBB67AE85};
    }
    return counter;
}

inline PhiloxKey philox_key(uint64_t seed) { return {uint32_t(seed), uint32_t(seed >> 32)}; }

// The last counter word separates the uses of one (seed, epoch), so that no two ever share a block; `weight`
// shares it with the number of the pool.
enum class Use : uint32_t { draw = 0, order = 1, weight = 2 };

// Four words for one position of an epoch: crops, flips and whatever else a sample draws.
inline Block draw(uint64_t seed, uint32_t epoch, uint64_t position) {
    return philox4x32({uint32_t(position), uint32_t(position >> 32), epoch, uint32_t(Use::draw)},
                      philox_key(seed));
}

}  // namespace discl
