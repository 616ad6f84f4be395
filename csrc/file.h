// A file descriptor that closes itself and whose errors name path, offset and reason.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace discl {

class File {
public:
    enum class Mode { read, write };  // write: read and write, made if absent

    File(std::string path, Mode mode);  // throws std::system_error
    ~File();
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    const std::string& path() const { return path_; }
    uint64_t size() const;
    void read(uint64_t offset, char* out, uint64_t bytes) const;  // all of it, or throws
    std::string read(uint64_t offset, uint64_t bytes) const;
    void write(uint64_t offset, std::string_view bytes) { write(offset, std::vector{bytes}); }
    void write(uint64_t offset, const std::vector<std::string_view>& pieces);  // end to end
    void truncate(uint64_t size);
    void sync();  // the bytes and the size, not the times

private:
    [[noreturn]] void fail(uint64_t offset, const char* action) const;

    std::string path_;
    int descriptor_;
};

void sync_folder_of(const std::string& path);  // the names in it; throws std::system_error

}  // namespace discl
