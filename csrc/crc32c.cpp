#include "crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace discl {

constexpr uint32_t polynomial = 0x82F63B78;  // bit 31 stands for x^0

static std::array<uint32_t, 256> make_table() {
    std::array<uint32_t, 256> table;
    for (uint32_t i = 0; i < 256; ++i) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (value & 1 ? polynomial : 0);
        table[i] = value;
    }
    return table;
}

uint32_t crc32c_table(std::string_view bytes, uint32_t crc) {
    static const std::array<uint32_t, 256> table = make_table();
    crc = ~crc;
    for (const char byte : bytes) crc = crc >> 8 ^ table[(crc ^ uint8_t(byte)) & 255];
    return ~crc;
}

// a * b modulo the polynomial, both as remainders over GF(2).
static uint32_t product_by_bits(uint32_t a, uint32_t b) {
    uint32_t sum = 0;
    for (uint32_t bit = 0x80000000; bit; bit >>= 1) {
        sum ^= a & bit ? b : 0;
        b = b >> 1 ^ (b & 1 ? polynomial : 0);
    }
    return sum;
}

#if defined(__x86_64__)
// Reflected, the upper half of a product is the lower one, and one bit short. The instruction for CRC32C reduces it,
// since it multiplies by x^32.
__attribute__((target("sse4.2,pclmul"))) static uint32_t product_clmul(uint32_t a, uint32_t b) {
    const __m128i both = _mm_clmulepi64_si128(_mm_cvtsi32_si128(int(a)), _mm_cvtsi32_si128(int(b)), 0);
    const uint64_t wide = uint64_t(_mm_cvtsi128_si64(both)) << 1;
    return _mm_crc32_u32(0, uint32_t(wide)) ^ uint32_t(wide >> 32);
}

static uint32_t product(uint32_t a, uint32_t b) {
    static const bool multiplies = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.2");
    return multiplies ? product_clmul(a, b) : product_by_bits(a, b);
}
#else
static uint32_t product(uint32_t a, uint32_t b) { return product_by_bits(a, b); }
#endif

// x^(8 bytes): what a remainder is multiplied by when that many zero bytes follow it.
static uint32_t shift_by(uint64_t bytes) {
    static const auto squares = [] {
        std::array<uint32_t, 64> powers{0x00800000};  // x^8, then each the square of the one before
        for (size_t i = 1; i < powers.size(); ++i) powers[i] = product_by_bits(powers[i - 1], powers[i - 1]);
        return powers;
    }();
    uint32_t shift = 0x80000000;
    for (size_t i = 0; bytes; ++i, bytes >>= 1)
        if (bytes & 1) shift = product(squares[i], shift);
    return shift;
}

uint32_t crc32c_joined(uint32_t first, uint32_t second, uint64_t second_bytes) {
    return product(shift_by(second_bytes), first) ^ second;
}

#if defined(__x86_64__)
static uint64_t word_at(const char* at) {
    uint64_t word;
    std::memcpy(&word, at, sizeof word);
    return word;
}

__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(std::string_view bytes, uint32_t crc) {
    // The instruction takes 3 cycles and can start every cycle: three lanes side by side triple the speed.
    constexpr size_t lane = 2048;
    static const uint32_t one_lane = shift_by(lane), two_lanes = shift_by(2 * lane);
    uint64_t state = uint32_t(~crc);
    for (; bytes.size() >= 3 * lane; bytes.remove_prefix(3 * lane)) {
        uint64_t second = 0, third = 0;
        for (const char *at = bytes.data(), *end = at + lane; at != end; at += 8) {
            state = _mm_crc32_u64(state, word_at(at));
            second = _mm_crc32_u64(second, word_at(at + lane));
            third = _mm_crc32_u64(third, word_at(at + 2 * lane));
        }
        state = product(two_lanes, uint32_t(state)) ^ product(one_lane, uint32_t(second)) ^ third;
    }
    for (; bytes.size() >= 8; bytes.remove_prefix(8)) state = _mm_crc32_u64(state, word_at(bytes.data()));
    for (const char byte : bytes) state = _mm_crc32_u8(uint32_t(state), uint8_t(byte));
    return ~uint32_t(state);
}

#define DISCL_FOLDING __attribute__((target("sse4.2,avx512f,avx512vl,vpclmulqdq")))

// What stands for both halves of a lane when `bits` more follow it: x^(bits + 32) and x^(bits - 32), each doubled since
// the product of two reflected numbers is one bit short.
DISCL_FOLDING static __m512i shift_lanes(uint64_t bits) {
    const auto power = [](uint64_t of) { return int64_t(uint64_t{shift_by(of / 8)} << 1); };
    const int64_t low = power(bits + 32), high = power(bits - 32);
    return _mm512_set_epi64(high, low, high, low, high, low, high, low);
}

DISCL_FOLDING static __m512i folded(__m512i lanes, __m512i shift, __m512i next) {
    constexpr int xor_of_three = 0x96;
    return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(lanes, shift, 0x00),
                                     _mm512_clmulepi64_epi128(lanes, shift, 0x11), next, xor_of_three);
}

// Folding by carry-less multiplication (Gopal et al., Intel 2009), 16 lanes of 16 bytes: 256 bytes become the next 256
// of the same remainder. In cache it sums twice as fast as the instruction's three lanes.
DISCL_FOLDING static uint32_t crc32c_folding(std::string_view bytes, uint32_t crc) {
    constexpr size_t wide = 64, all = 4 * wide;
    if (bytes.size() < 2 * all) return crc32c_sse42(bytes, crc);
    static const __m512i by_one = shift_lanes(8 * wide), by_all = shift_lanes(8 * all);
    __m512i lanes[4];
    for (size_t i = 0; i < 4; ++i) lanes[i] = _mm512_loadu_si512(bytes.data() + wide * i);
    lanes[0] = _mm512_xor_si512(lanes[0], _mm512_zextsi128_si512(_mm_cvtsi32_si128(int(~crc))));
    for (bytes.remove_prefix(all); bytes.size() >= all; bytes.remove_prefix(all))
        for (size_t i = 0; i < 4; ++i)
            lanes[i] = folded(lanes[i], by_all, _mm512_loadu_si512(bytes.data() + wide * i));
    for (size_t i = 1; i < 4; ++i) lanes[i] = folded(lanes[i - 1], by_one, lanes[i]);
    char rest[wide];
    _mm512_storeu_si512(rest, lanes[3]);
    return crc32c_sse42(bytes, crc32c_sse42({rest, wide}, ~uint32_t{0}));
}

uint32_t crc32c(std::string_view bytes, uint32_t crc) {
    static const bool folds = __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("vpclmulqdq");
    static const bool counts = __builtin_cpu_supports("sse4.2");
    return folds ? crc32c_folding(bytes, crc) : counts ? crc32c_sse42(bytes, crc) : crc32c_table(bytes, crc);
}
#else
uint32_t crc32c(std::string_view bytes, uint32_t crc) { return crc32c_table(bytes, crc); }
#endif

}  // namespace discl
