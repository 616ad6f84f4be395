// Memory for the images of one batch: taken piece by piece by many threads, given back all at once, lent again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace discl {

class Arena {
public:
    Arena() = default;
    ~Arena();
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;

    char* take(uint64_t bytes);  // valid until the next clear
    void clear();                // keeps the memory, so that the next batch touches no new pages

private:
    static constexpr uint64_t block_bytes = 1 << 22, alignment = 64;

    struct Block {
        char* bytes;
        uint64_t size;
    };

    std::mutex mutex_;
    std::vector<Block> blocks_;
    size_t block_ = 0;  // the one that is being filled
    uint64_t used_ = 0;
};

// Arenas for batch after batch: as many as are held at once. One that is let go of serves a later batch, or ends with
// the last of them where this is gone by then.
class Arenas {
public:
    std::shared_ptr<Arena> lend();

private:
    struct Free {
        std::mutex mutex;
        std::vector<std::unique_ptr<Arena>> arenas;
    };

    const std::shared_ptr<Free> free_ = std::make_shared<Free>();
};

}  // namespace discl
