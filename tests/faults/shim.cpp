// A library for LD_PRELOAD that stands between a program and every call that changes files below one folder: it counts
// them, and at the chosen one it kills the process (before, after, or in the middle of a write) or lets the call fail.
// It can also log every call with its data, from which a test makes up what a power cut would have left.
//
// The program under test is the one that ships: nothing is compiled into it. Python and C++ are seen alike.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

namespace {

enum Kind { none, kill_before, kill_after, kill_torn, fail_once, fail_from, short_writes };

struct Plan {
    std::string root;
    std::atomic<long> count{0};
    long at = -1;
    Kind kind = none;
    int error = 0;
    double share = 0.5;  // of a torn write that reaches the file
    int log = -1;
    std::mutex log_mutex;
};

Plan& plan() {
    static Plan* one = new Plan;  // never destroyed: calls go on while the process ends
    return *one;
}

template <class Function>
Function next(const char* name) {
    return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

std::string path_of(int descriptor) {
    char link[64], target[PATH_MAX];
    std::snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    const ssize_t length = ::readlink(link, target, sizeof target);
    return length > 0 ? std::string(target, size_t(length)) : std::string();
}

std::string absolute(int folder, const char* path) {
    if (path[0] == '/') return path;
    if (folder != AT_FDCWD) return path_of(folder) + "/" + path;
    char here[PATH_MAX];
    return ::getcwd(here, sizeof here) ? std::string(here) + "/" + path : std::string();
}

bool watched(const std::string& path) {
    const std::string& root = plan().root;
    return !root.empty() && path.compare(0, root.size(), root) == 0;
}

[[noreturn]] void die() {
    ::syscall(SYS_kill, ::getpid(), SIGKILL);
    for (;;) ::pause();
}

void put(const void* data, size_t bytes) {
    for (const char* at = static_cast<const char*>(data); bytes;) {
        const ssize_t done = ::syscall(SYS_write, plan().log, at, bytes);
        if (done <= 0) ::abort();
        at += done, bytes -= size_t(done);
    }
}

// One line "operation offset bytes path[\tother path]", then the bytes.
void log_call(const char* name, const std::string& paths, long offset = 0, const void* data = nullptr, size_t bytes = 0) {
    if (plan().log < 0) return;
    const std::string line =
        std::string(name) + " " + std::to_string(offset) + " " + std::to_string(bytes) + " " + paths + "\n";
    put(line.data(), line.size());
    if (data) put(data, bytes);
}

// What happens to this call: true lets it through, false makes it fail with errno set.
bool admit(bool& dies_after) {
    Plan& p = plan();
    const long number = p.count.fetch_add(1);
    const bool now = number == p.at;
    if (now && p.kind == kill_before) die();
    dies_after = now && (p.kind == kill_after || p.kind == kill_torn);
    if ((now && p.kind == fail_once) || (number >= p.at && p.kind == fail_from)) {
        errno = p.error;
        return false;
    }
    return true;
}

// Held over a call that is logged, so that the log has the order in which calls take effect.
std::unique_lock<std::mutex> logged() {
    Plan& p = plan();
    return p.log < 0 ? std::unique_lock<std::mutex>() : std::unique_lock(p.log_mutex);
}

// A call that either happens or not.
template <class Call>
int changing(const char* name, const std::string& paths, bool relevant, Call&& call, long offset = 0) {
    if (!relevant) return call();
    bool dies_after = false;
    if (!admit(dies_after)) return -1;
    const auto lock = logged();
    const int result = call();
    if (result >= 0) log_call(name, paths, offset);
    if (dies_after) die();
    return result;
}

template <class Call>
ssize_t writing(int descriptor, const char* data, size_t bytes, long offset, Call&& call) {
    const std::string path = path_of(descriptor);
    if (!watched(path)) return call(bytes);
    Plan& p = plan();
    const bool torn = p.kind == kill_torn && p.count.load() == p.at;
    bool dies_after = false;
    if (!admit(dies_after)) return -1;
    if (torn || (p.kind == short_writes && bytes > 1)) bytes = size_t(double(bytes) * p.share);
    const auto lock = logged();
    const ssize_t result = bytes ? call(bytes) : 0;
    if (result > 0) log_call("write", path, offset, data, size_t(result));
    if (dies_after) die();
    return result;
}

long end_of(int descriptor) {
    const int flags = ::fcntl(descriptor, F_GETFL);
    return ::lseek(descriptor, 0, flags & O_APPEND ? SEEK_END : SEEK_CUR);
}

template <class Call>
int opening(int folder, const char* name, int flags, Call&& call) {
    const std::string path = absolute(folder, name);
    const bool makes = flags & O_CREAT && ::access(path.c_str(), F_OK) != 0;
    const bool empties = !makes && flags & O_TRUNC;
    return changing(makes ? "create" : "empty", path, (makes || empties) && watched(path), call);
}

}  // namespace

extern "C" {

void fault_plan(const char* root, long at, int kind, int error, double share) {
    Plan& p = plan();
    p.root = root;
    p.at = at;
    p.kind = Kind(kind);
    p.error = error;
    p.share = share;
    p.count = 0;
}

long fault_count() { return plan().count.load(); }

void fault_log(const char* path) {
    plan().log = path[0] ? int(::syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, 0644)) : -1;
}

void fault_mark(long number) {
    const auto lock = logged();
    log_call("mark", "-", number);
}

#define OPEN(symbol)                                                                   \
    int symbol(const char* path, int flags, ...) {                                     \
        va_list rest;                                                                  \
        va_start(rest, flags);                                                         \
        const mode_t mode = va_arg(rest, mode_t);                                      \
        va_end(rest);                                                                  \
        static auto real = next<int (*)(const char*, int, ...)>(#symbol);              \
        return opening(AT_FDCWD, path, flags, [&] { return real(path, flags, mode); }); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(symbol)                                                                        \
    int symbol(int folder, const char* path, int flags, ...) {                                \
        va_list rest;                                                                         \
        va_start(rest, flags);                                                                \
        const mode_t mode = va_arg(rest, mode_t);                                             \
        va_end(rest);                                                                         \
        static auto real = next<int (*)(int, const char*, int, ...)>(#symbol);                \
        return opening(folder, path, flags, [&] { return real(folder, path, flags, mode); }); \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int descriptor, const void* data, size_t bytes) {
    static auto real = next<ssize_t (*)(int, const void*, size_t)>("write");
    return writing(descriptor, static_cast<const char*>(data), bytes, end_of(descriptor),
                   [&](size_t n) { return real(descriptor, data, n); });
}

#define PWRITE(symbol)                                                                      \
    ssize_t symbol(int descriptor, const void* data, size_t bytes, off_t offset) {          \
        static auto real = next<ssize_t (*)(int, const void*, size_t, off_t)>(#symbol);     \
        return writing(descriptor, static_cast<const char*>(data), bytes, offset,           \
                       [&](size_t n) { return real(descriptor, data, n, offset); });        \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

// Seen as one write of all pieces.
#define PWRITEV(symbol, one)                                                                   \
    ssize_t symbol(int descriptor, const struct iovec* pieces, int count, off_t offset) {      \
        std::string joined;                                                                    \
        for (int i = 0; i < count; ++i)                                                        \
            joined.append(static_cast<const char*>(pieces[i].iov_base), pieces[i].iov_len);    \
        return one(descriptor, joined.data(), joined.size(), offset);                          \
    }
PWRITEV(pwritev, pwrite)
PWRITEV(pwritev64, pwrite64)

#define SYNC(symbol)                                                                                      \
    int symbol(int descriptor) {                                                                          \
        static auto real = next<int (*)(int)>(#symbol);                                                   \
        const std::string path = path_of(descriptor);                                                     \
        return changing("sync", path, watched(path), [&] { return real(descriptor); });                   \
    }
SYNC(fsync)
SYNC(fdatasync)

#define TRUNCATE(symbol)                                                                                      \
    int symbol(int descriptor, off_t size) {                                                                  \
        static auto real = next<int (*)(int, off_t)>(#symbol);                                                \
        const std::string path = path_of(descriptor);                                                         \
        return changing("truncate", path, watched(path), [&] { return real(descriptor, size); }, size);       \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

#define PAIR(symbol)                                                                                          \
    int symbol(const char* from, const char* to) {                                                            \
        static auto real = next<int (*)(const char*, const char*)>(#symbol);                                  \
        const std::string first = absolute(AT_FDCWD, from), second = absolute(AT_FDCWD, to);                  \
        return changing(#symbol, first + "\t" + second, watched(first) || watched(second),                    \
                        [&] { return real(from, to); });                                                      \
    }
PAIR(rename)
PAIR(link)

int renameat(int from_folder, const char* from, int to_folder, const char* to) {
    static auto real = next<int (*)(int, const char*, int, const char*)>("renameat");
    const std::string first = absolute(from_folder, from), second = absolute(to_folder, to);
    return changing("rename", first + "\t" + second, watched(first) || watched(second),
                    [&] { return real(from_folder, from, to_folder, to); });
}

int linkat(int from_folder, const char* from, int to_folder, const char* to, int flags) {
    static auto real = next<int (*)(int, const char*, int, const char*, int)>("linkat");
    const std::string first = absolute(from_folder, from), second = absolute(to_folder, to);
    return changing("link", first + "\t" + second, watched(first) || watched(second),
                    [&] { return real(from_folder, from, to_folder, to, flags); });
}

int unlink(const char* name) {
    static auto real = next<int (*)(const char*)>("unlink");
    const std::string path = absolute(AT_FDCWD, name);
    return changing("unlink", path, watched(path), [&] { return real(name); });
}

int unlinkat(int folder, const char* name, int flags) {
    static auto real = next<int (*)(int, const char*, int)>("unlinkat");
    const std::string path = absolute(folder, name);
    return changing("unlink", path, watched(path), [&] { return real(folder, name, flags); });
}

int mkdir(const char* name, mode_t mode) {
    static auto real = next<int (*)(const char*, mode_t)>("mkdir");
    const std::string path = absolute(AT_FDCWD, name);
    return changing("mkdir", path, watched(path), [&] { return real(name, mode); });
}

int mkdirat(int folder, const char* name, mode_t mode) {
    static auto real = next<int (*)(int, const char*, mode_t)>("mkdirat");
    const std::string path = absolute(folder, name);
    return changing("mkdir", path, watched(path), [&] { return real(folder, name, mode); });
}

}  // extern "C"
