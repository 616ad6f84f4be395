#include "pool.h"

namespace discl {

void Ends::append(uint64_t size) {
    const uint64_t end = total() + size;
    if (pieces_ == ends_.size()) ends_.resize(ends_.empty() ? 1 : 2 * ends_.size(), UINT64_MAX);
    ends_[pieces_++] = end;
}

}  // namespace discl
