#include "crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace discl {

static std::array<uint32_t, 256> make_table() {
    std::array<uint32_t, 256> table;
    for (uint32_t i = 0; i < 256; ++i) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (value & 1 ? 0x82F63B78 : 0);
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

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(std::string_view bytes, uint32_t crc) {
    uint64_t state = uint32_t(~crc);
    while (bytes.size() >= 8) {
        uint64_t word;
        std::memcpy(&word, bytes.data(), 8);
        state = _mm_crc32_u64(state, word);
        bytes.remove_prefix(8);
    }
    for (const char byte : bytes) state = _mm_crc32_u8(uint32_t(state), uint8_t(byte));
    return ~uint32_t(state);
}

uint32_t crc32c(std::string_view bytes, uint32_t crc) {
    static const bool fast = __builtin_cpu_supports("sse4.2");
    return fast ? crc32c_sse42(bytes, crc) : crc32c_table(bytes, crc);
}
#else
uint32_t crc32c(std::string_view bytes, uint32_t crc) { return crc32c_table(bytes, crc); }
#endif

}  // namespace discl
