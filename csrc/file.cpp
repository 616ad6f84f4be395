#include "file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
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

void File::write(uint64_t offset, const std::vector<std::string_view>& pieces) {
    constexpr size_t most = 1024;  // Linux takes no more in one call
    std::vector<iovec> parts;
    for (const std::string_view piece : pieces)
        if (!piece.empty()) parts.push_back({const_cast<char*>(piece.data()), piece.size()});
    for (auto part = parts.begin(); part != parts.end();) {
        const auto count = std::min<size_t>(size_t(parts.end() - part), most);
        const ssize_t put = ::pwritev(descriptor_, &*part, int(count), off_t(offset));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) fail(offset, "write");
        offset += uint64_t(put);
        size_t done = size_t(put);
        for (; part != parts.end() && done >= part->iov_len; ++part) done -= part->iov_len;
        if (done) part->iov_base = static_cast<char*>(part->iov_base) + done, part->iov_len -= done;
    }
}

void File::truncate(uint64_t size) {
    if (::ftruncate(descriptor_, off_t(size))) fail(size, "truncate");
}

void File::sync() {
    if (::fdatasync(descriptor_)) fail(0, "fsync");
}

void sync_folder_of(const std::string& path) {
    const size_t slash = path.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
    const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const int failure = descriptor < 0 || ::fsync(descriptor) ? errno : 0;
    if (descriptor >= 0) ::close(descriptor);
    if (failure) throw std::system_error(failure, std::generic_category(), folder + ": cannot fsync the folder");
}

}  // namespace discl
