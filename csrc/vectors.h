// Loops over 64-bit words that the compiler turns into vectors of 4 (AVX2) or 8 (AVX-512), where the CPU has
// them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#define DISCL_INLINE inline __attribute__((always_inline))  // into functions for whatever CPU

#if defined(__x86_64__)
#define DISCL_AVX2 __attribute__((target("avx2")))
#define DISCL_AVX512 __attribute__((target("avx512f,avx512dq,avx512vl,prefer-vector-width=512")))
#else
#define DISCL_AVX2
#define DISCL_AVX512
#endif

namespace discl {

__extension__ typedef unsigned __int128 uint128_t;

enum class Vectors { none, avx2, avx512 };

inline Vectors widest_vectors() {
#if defined(__x86_64__)
    static const Vectors widest =
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") ? Vectors::avx512
        : __builtin_cpu_supports("avx2")                                         ? Vectors::avx2
                                                                                 : Vectors::none;
    return widest;
#else
    return Vectors::none;
#endif
}

constexpr size_t lanes = 64;  // at most so many words at once
using Words = std::array<uint64_t, lanes>;

// The high half of a product: one instruction for one lane ...
struct Wide {
    static DISCL_INLINE uint64_t high(uint64_t a, uint64_t b) { return uint64_t(uint128_t{a} * b >> 64); }
    static DISCL_INLINE uint64_t high_by_32_bits(uint64_t a, uint64_t b) { return high(a, b); }
};

// ... but vectors only multiply 32 bits by 32.
struct Halves {
    static DISCL_INLINE uint64_t high(uint64_t a, uint64_t b) {
        const uint64_t low_a = uint32_t(a), low_b = uint32_t(b), high_a = a >> 32, high_b = b >> 32;
        const uint64_t one = high_a * low_b + (low_a * low_b >> 32), other = low_a * high_b + uint32_t(one);
        return high_a * high_b + (one >> 32) + (other >> 32);
    }
    static DISCL_INLINE uint64_t high_by_32_bits(uint64_t a, uint64_t b) {
        return ((a >> 32) * b + (uint32_t(a) * b >> 32)) >> 32;
    }
};

}  // namespace discl
