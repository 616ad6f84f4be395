// Memory for the images of one batch: taken piece by piece by many threads, given back all at once.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

namespace discl {

class Arena {
public:
    char* take(uint64_t bytes);  // valid until the next clear
    void clear();                // keeps the memory, so that the next batch touches no new pages

private:
    static constexpr uint64_t block_bytes = 1 << 22, huge_page = 1 << 21, alignment = 64;

    struct Free {
        void operator()(char* memory) const { std::free(memory); }
    };
    struct Block {
        std::unique_ptr<char[], Free> bytes;
        uint64_t size;
    };

    static char* allocated(uint64_t size);

    std::mutex mutex_;
    std::vector<Block> blocks_;
    size_t block_ = 0;  // the one that is being filled
    uint64_t used_ = 0;
};

}  // namespace discl
