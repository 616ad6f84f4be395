// A keyed permutation of [0, n) that is computed, not stored: index in, index out, in O(1) memory.
//
// Generalised Feistel (Black and Rogaway 2002) on a rows x columns grid that just covers [0, n): halves are
// added modulo their size, so fewer than `rows` cells lie outside and cycle walking is rare (at most 1 in
// sqrt(n)). Round keys come from Philox; `pass` shifts them, which gives as many independent-looking
// permutations as there are passes.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "philox.h"

namespace discl {

__extension__ typedef unsigned __int128 uint128_t;

class Permutation {
public:
    static constexpr int rounds = 8;
    static constexpr uint64_t largest = 0x4000000000000000;  // row * columns + column then fits 64 bits

    Permutation(uint64_t n, uint64_t seed, uint32_t epoch, uint32_t stream)
        : n_(n), rows_(uint64_t(std::sqrt(double(n)))) {
        while (rows_ * rows_ < n) ++rows_;
        while (rows_ > 1 && (rows_ - 1) * (rows_ - 1) >= n) --rows_;
        columns_ = rows_ ? (n + rows_ - 1) / rows_ : 0;
        for (uint32_t i = 0; i < rounds / 2; ++i) {
            const Block words = philox4x32({i, stream, epoch, uint32_t(Use::order)}, philox_key(seed));
            keys_[2 * i] = words[0] | uint64_t{words[1]} << 32;
            keys_[2 * i + 1] = words[2] | uint64_t{words[3]} << 32;
        }
    }

    // index[j] becomes who[j]'s image of it in its pass[j]. Independent lanes hide the latency of the rounds'
    // multiply chains: 8 lanes reach twice the indices/s of one.
    template <int lanes>
    static void permute(const Permutation* const (&who)[lanes], uint64_t (&index)[lanes],
                        const uint64_t (&pass)[lanes]) {
        uint64_t shift[lanes];
        for (int j = 0; j < lanes; ++j) shift[j] = pass[j] * 0x9E3779B97F4A7C15;
        encipher(who, index, shift);
        for (int j = 0; j < lanes; ++j) {
            uint64_t walked[1] = {index[j]};
            while (walked[0] >= who[j]->n_) encipher<1>({who[j]}, walked, {shift[j]});
            index[j] = walked[0];
        }
    }

private:
    template <int lanes>
    static void encipher(const Permutation* const (&who)[lanes], uint64_t (&index)[lanes],
                         const uint64_t (&shift)[lanes]) {
        uint64_t row[lanes], column[lanes];
        for (int j = 0; j < lanes; ++j) {
            const uint64_t i = index[j], columns = who[j]->columns_;
            // 64-bit division costs several times the 32-bit one on many CPUs, and most orders are short.
            row[j] = i >> 32 ? i / columns : uint32_t(i) / uint32_t(columns);
            column[j] = i - row[j] * columns;
        }
        for (int i = 0; i < rounds; i += 2) {
            for (int j = 0; j < lanes; ++j)
                row[j] = added(row[j], column[j] + who[j]->keys_[i] + shift[j], who[j]->rows_);
            for (int j = 0; j < lanes; ++j)
                column[j] = added(column[j], row[j] + who[j]->keys_[i + 1] + shift[j], who[j]->columns_);
        }
        for (int j = 0; j < lanes; ++j) index[j] = row[j] * who[j]->columns_ + column[j];
    }

    // (value + hash(word)) mod size.
    static uint64_t added(uint64_t value, uint64_t word, uint64_t size) {
        word *= 0xBF58476D1CE4E5B9;
        word ^= word >> 32;
        word *= 0x94D049BB133111EB;
        value += uint64_t(uint128_t{word} * size >> 64);
        return value >= size ? value - size : value;
    }

    uint64_t n_, rows_, columns_;
    std::array<uint64_t, rounds> keys_;
};

}  // namespace discl
