#include "half.h"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace discl {

uint16_t half(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) return uint16_t(sign | 0x7E00 | (magnitude >> 13 & 0x1FF));  // NaN stays one
    if (magnitude >= 0x477FF000) return uint16_t(sign | 0x7C00);                             // rounds to infinity
    // Adding a number whose last bit weighs as much as the result's rounds to that bit.
    float rounding, scaled;
    const uint32_t normal = magnitude < 0x38800000 ? 0x38800000 : magnitude & 0x7F800000;
    const uint32_t weight = normal + (13u << 23);
    std::memcpy(&rounding, &weight, sizeof rounding);
    std::memcpy(&scaled, &magnitude, sizeof scaled);
    const volatile float sum = scaled + rounding;
    const float rounded = sum - rounding;
    std::memcpy(&bits, &rounded, sizeof bits);
    if (bits < 0x38800000) return uint16_t(sign | uint32_t(rounded * 16777216.0f));  // subnormal: units of 2^-24
    return uint16_t(sign | ((bits - 0x38000000) >> 13));
}

#if defined(__x86_64__)
__attribute__((target("avx,f16c"))) static size_t convert(char* out, const float* values, size_t count) {
    size_t done = 0;
    for (; done + 8 <= count; done += 8)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + sizeof(uint16_t) * done),
                         _mm256_cvtps_ph(_mm256_loadu_ps(values + done), _MM_FROUND_TO_NEAREST_INT));
    return done;
}
#endif

void append_halves(std::string& out, const float* values, size_t count) {
    const size_t begin = out.size();
    out.resize(begin + sizeof(uint16_t) * count);
    char* const halves = out.data() + begin;  // at any address
    size_t done = 0;
#if defined(__x86_64__)
    static const bool converts = __builtin_cpu_supports("avx") && __builtin_cpu_supports("f16c");
    if (converts) done = convert(halves, values, count);
#endif
    for (; done < count; ++done) {
        const uint16_t one = half(values[done]);
        std::memcpy(halves + sizeof one * done, &one, sizeof one);
    }
}

}  // namespace discl
