// Keyed permutations of [0, n) that are computed, not stored: index in, index out, in O(1) memory.
//
// Generalised Feistel (Black and Rogaway 2002) on a rows x columns grid that just covers [0, n): halves are
// added modulo their size, so fewer than `rows` cells lie outside and cycle walking is rare (at most 1 in
// sqrt(n)). Round keys come from Philox; `pass` shifts them, which gives as many independent-looking
// permutations as there are passes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "vectors.h"

namespace discl {

struct Permutation {
    static constexpr size_t rounds = 8;
    static constexpr uint64_t largest = 0x4000000000000000;  // rows and columns then fit 32 bits

    Permutation(uint64_t n, uint64_t seed, uint32_t epoch, uint32_t stream);

    uint64_t n, rows, columns;
    uint64_t reciprocal;  // of columns, in units of 2^-64
    std::array<uint64_t, rounds> keys;
};

// A permutation for each lane: arrays over lanes, which vector registers take as they lie.
struct PermutationLanes {
    void set(size_t lane, const Permutation& permutation);

    // index[j] becomes its image by lane j's permutation in its pass[j], for j < count.
    void permute(uint64_t* index, const uint64_t* pass, size_t count,
                 Vectors vectors = widest_vectors()) const;

    alignas(64) Words n, rows, columns, reciprocal;
    alignas(64) std::array<Words, Permutation::rounds> keys;
};

}  // namespace discl
