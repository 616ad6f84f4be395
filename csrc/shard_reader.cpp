#include "shard_reader.h"

#include <stdexcept>

#include "crc32c.h"

namespace discl {

void ShardReader::check_bounds(uint64_t offset, uint64_t length) const {
    if (offset > size_ || length > size_ - offset)
        throw std::out_of_range(path() + " at offset " + std::to_string(offset) + ": " +
                                std::to_string(length) + " bytes reach past the end at " +
                                std::to_string(size_));
}

void ShardReader::read(uint64_t offset, char* out, uint64_t length, uint32_t crc) const {
    check_bounds(offset, length);
    file_.read(offset, out, length);
    const uint32_t found = crc32c({out, length});
    if (found != crc)
        throw std::runtime_error(path() + " at offset " + std::to_string(offset) + ": CRC32C is " +
                                 std::to_string(found) + ", the index says " + std::to_string(crc));
}

}  // namespace discl
