#include "permutation.h"

#include <cmath>

#include "philox.h"
#include "vectors.h"

namespace discl {

Permutation::Permutation(uint64_t n, uint64_t seed, uint32_t epoch, uint32_t stream)
    : n(n), rows(uint64_t(std::sqrt(double(n)))) {
    while (rows * rows < n) ++rows;
    while (rows > 1 && (rows - 1) * (rows - 1) >= n) --rows;
    columns = rows ? (n + rows - 1) / rows : 0;
    reciprocal = columns ? UINT64_MAX / columns : 0;
    for (uint32_t i = 0; i < rounds / 2; ++i) {
        const Block words = philox4x32({i, stream, epoch, uint32_t(Use::order)}, philox_key(seed));
        keys[2 * i] = words[0] | uint64_t{words[1]} << 32;
        keys[2 * i + 1] = words[2] | uint64_t{words[3]} << 32;
    }
}

void PermutationLanes::set(size_t lane, const Permutation& permutation) {
    n[lane] = permutation.n, rows[lane] = permutation.rows, columns[lane] = permutation.columns;
    reciprocal[lane] = permutation.reciprocal;
    for (size_t i = 0; i < Permutation::rounds; ++i) keys[i][lane] = permutation.keys[i];
}

namespace {

// (value + hash(word)) mod size.
template <typename Multiply>
DISCL_INLINE uint64_t added(uint64_t value, uint64_t word, uint64_t size) {
    word *= 0xBF58476D1CE4E5B9;
    word ^= word >> 32;
    word *= 0x94D049BB133111EB;
    value += Multiply::high_by_32_bits(word, size);
    return value >= size ? value - size : value;
}

// Round by round over all lanes: each round is a chain of multiplications, and the lanes hide its latency.
template <typename Multiply>
DISCL_INLINE void encipher(const PermutationLanes& of, uint64_t* index, const uint64_t* pass, size_t first,
                           size_t last) {
    alignas(64) Words row, column, shift;
    for (size_t j = first; j < last; ++j) {
        const uint64_t quotient = Multiply::high(index[j], of.reciprocal[j]);  // or one too few
        const uint64_t rest = index[j] - quotient * of.columns[j];
        row[j] = quotient + (rest >= of.columns[j] ? 1 : 0);
        column[j] = rest - (rest >= of.columns[j] ? of.columns[j] : 0);
        shift[j] = pass[j] * 0x9E3779B97F4A7C15;
    }
    for (size_t i = 0; i < Permutation::rounds; i += 2) {
        for (size_t j = first; j < last; ++j)
            row[j] = added<Multiply>(row[j], column[j] + of.keys[i][j] + shift[j], of.rows[j]);
        for (size_t j = first; j < last; ++j)
            column[j] = added<Multiply>(column[j], row[j] + of.keys[i + 1][j] + shift[j], of.columns[j]);
    }
    for (size_t j = first; j < last; ++j) index[j] = row[j] * of.columns[j] + column[j];
}

DISCL_AVX2 void encipher_avx2(const PermutationLanes& of, uint64_t* index, const uint64_t* pass,
                              size_t count) {
    encipher<Halves>(of, index, pass, 0, count);
}

DISCL_AVX512 void encipher_avx512(const PermutationLanes& of, uint64_t* index, const uint64_t* pass,
                                  size_t count) {
    encipher<Halves>(of, index, pass, 0, count);
}

}  // namespace

void PermutationLanes::permute(uint64_t* index, const uint64_t* pass, size_t count, Vectors vectors) const {
    if (vectors == Vectors::avx512) encipher_avx512(*this, index, pass, count);
    else if (vectors == Vectors::avx2) encipher_avx2(*this, index, pass, count);
    else encipher<Wide>(*this, index, pass, 0, count);
    bool outside = false;
    for (size_t j = 0; j < count; ++j) outside |= index[j] >= n[j];
    if (!outside) return;
    for (size_t j = 0; j < count; ++j)
        while (index[j] >= n[j]) encipher<Wide>(*this, index, pass, j, j + 1);
}

}  // namespace discl
