#include "file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <system_error>

namespace discl {

File::File(std::string path, Mode mode) : path_(std::move(path)) {
    const int flags = mode == Mode::read ? O_RDONLY : O_RDWR | O_CREAT;
    descriptor_ = ::open(path_.c_str(), flags | O_CLOEXEC, 0644);
    if (descriptor_ < 0) throw std::system_error(errno, std::generic_category(), path_ + ": cannot open");
}

File::~File() { ::close(descriptor_); }

void File::fail(uint64_t offset, const char* action) const {
    throw std::system_error(errno, std::generic_category(),
                            path_ + " at offset " + std::to_string(offset) + ": cannot " + action);
}

uint64_t File::size() const {
    struct stat status;
    if (::fstat(descriptor_, &status)) fail(0, "stat");
    return uint64_t(status.st_size);
}

void File::read(uint64_t offset, char* out, uint64_t bytes) const {
    while (bytes) {
        const ssize_t got = ::pread(descriptor_, out, bytes, off_t(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) fail(offset, "read");
        if (got == 0)
            throw std::runtime_error(path_ + " at offset " + std::to_string(offset) + ": the file ends " +
                                     std::to_string(bytes) + " bytes too early");
        offset += uint64_t(got), out += got, bytes -= uint64_t(got);
    }
}

std::string File::read(uint64_t offset, uint64_t bytes) const {
    std::string out(bytes, '\0');
    read(offset, out.data(), bytes);
    return out;
}

void File::write(uint64_t offset, std::string_view bytes) {
    while (!bytes.empty()) {
        const ssize_t put = ::pwrite(descriptor_, bytes.data(), bytes.size(), off_t(offset));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) fail(offset, "write");
        offset += uint64_t(put);
        bytes.remove_prefix(size_t(put));
    }
}

void File::truncate(uint64_t size) {
    if (::ftruncate(descriptor_, off_t(size))) fail(size, "truncate");
}

void File::sync() {
    if (::fdatasync(descriptor_)) fail(0, "fsync");
}

}  // namespace discl
