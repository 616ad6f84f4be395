// CRC32C (Castagnoli): bytes in, checksum out. `crc` continues an earlier checksum.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace discl {

uint32_t crc32c(std::string_view bytes, uint32_t crc = 0);        // SSE4.2 where the CPU has it
uint32_t crc32c_table(std::string_view bytes, uint32_t crc = 0);  // any CPU

// The checksum of two runs of bytes end to end, from those of each and the length of the second.
uint32_t crc32c_joined(uint32_t first, uint32_t second, uint64_t second_bytes);

}  // namespace discl
