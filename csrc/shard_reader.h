// A sealed shard: offset, length and CRC32C in, a sample's bytes out. One descriptor, any number of threads
// (pread).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "file.h"
#include "tar.h"

namespace discl {

class ShardReader {
public:
    explicit ShardReader(const std::string& path) : file_(path, File::Mode::read), size_(file_.size()) {}

    const std::string& path() const { return file_.path(); }
    uint64_t size() const { return size_; }
    // Throws std::out_of_range when [offset, offset + length) is not inside the file.
    void check_bounds(uint64_t offset, uint64_t length) const;
    // Fills out[0, length); throws std::runtime_error when the bytes do not have this CRC32C.
    void read(uint64_t offset, char* out, uint64_t length, uint32_t crc) const;
    std::vector<Member> members() const { return tar_members(file_); }

private:
    File file_;
    uint64_t size_;
};

}  // namespace discl
