// Loads that do not wait.
#pragma once

namespace discl {

// __builtin_prefetch alone is no effect to GCC: the call of a function that does nothing else would be dropped.
inline void prefetch(const void* address) {
    __builtin_prefetch(address);
    asm volatile("" : : "r"(address));
}

}  // namespace discl
