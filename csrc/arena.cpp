#include "arena.h"

#include <algorithm>

#include "huge_pages.h"

namespace discl {

Arena::~Arena() {
    for (const Block& block : blocks_) HugePages<char>().deallocate(block.bytes, block.size);
}

char* Arena::take(uint64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    while (block_ < blocks_.size() && blocks_[block_].size - used_ < bytes) ++block_, used_ = 0;
    if (block_ == blocks_.size()) {
        const uint64_t size = std::max(bytes, block_bytes);
        blocks_.reserve(blocks_.size() + 1);
        blocks_.push_back({HugePages<char>().allocate(size), size});
    }
    const Block& block = blocks_[block_];
    char* place = block.bytes + used_;
    used_ = std::min(used_ + (bytes + alignment - 1) / alignment * alignment, block.size);
    return place;
}

void Arena::clear() {
    const std::lock_guard<std::mutex> lock(mutex_);
    block_ = 0, used_ = 0;
}

std::shared_ptr<Arena> Arenas::lend() {
    std::unique_ptr<Arena> arena;
    {
        const std::lock_guard<std::mutex> lock(free_->mutex);
        if (!free_->arenas.empty()) arena = std::move(free_->arenas.back()), free_->arenas.pop_back();
    }
    if (!arena) arena = std::make_unique<Arena>();
    return {arena.release(), [free = free_](Arena* used) {
                used->clear();
                const std::lock_guard<std::mutex> lock(free->mutex);
                free->arenas.emplace_back(used);
            }};
}

}  // namespace discl
