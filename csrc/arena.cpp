#include "arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <new>

namespace discl {

// Huge pages where the system has them: copies out of the page cache then miss the TLB less.
char* Arena::allocated(uint64_t size) {
    void* const memory = std::aligned_alloc(huge_page, size);
    if (!memory) throw std::bad_alloc();
    ::madvise(memory, size, MADV_HUGEPAGE);
    return static_cast<char*>(memory);
}

char* Arena::take(uint64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    while (block_ < blocks_.size() && blocks_[block_].size - used_ < bytes) ++block_, used_ = 0;
    if (block_ == blocks_.size()) {
        const uint64_t size = (std::max(bytes, block_bytes) + huge_page - 1) / huge_page * huge_page;
        blocks_.push_back({std::unique_ptr<char[], Free>(allocated(size)), size});
    }
    const Block& block = blocks_[block_];
    char* place = block.bytes.get() + used_;
    used_ = std::min(used_ + (bytes + alignment - 1) / alignment * alignment, block.size);
    return place;
}

void Arena::clear() {
    const std::lock_guard<std::mutex> lock(mutex_);
    block_ = 0, used_ = 0;
}

}  // namespace discl
