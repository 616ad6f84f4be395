// float32 in, IEEE half precision out, rounded to nearest even as numpy does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace discl {

void append_halves(std::string& out, const float* values, size_t count);  // F16C where the CPU has it
uint16_t half(float value);                                                // any CPU

}  // namespace discl
