// Weighted draws: a pool's weights in, and for a unit of their sum the id that owns it out.
//
// Weights become whole units (the largest 2^30 to 2^31 of them), so that sums are exact and every id owns a
// run of units in the pool's order. Only the sums of blocks are stored, 8 bytes for 16 ids: a guide finds the
// block, a scan the id.
#pragma once

#include <cstdint>
#include <vector>

#include "huge_pages.h"
#include "pool.h"

namespace discl {

class Weights {
public:
    // Reads every weight of the pool once. Throws std::invalid_argument for a weight that is missing,
    // negative or not finite, and where none is positive. The pool and its arrays must outlive this.
    explicit Weights(const Pool& pool);

    uint64_t total() const { return begins_.back(); }

    // The owner of a unit below total(), in steps. Each has the CPU load what the next one needs: Searches
    // takes them side by side for many units, so that their cache misses overlap.
    struct Search {
        uint64_t unit;
        uint64_t first, last;  // of cells, then blocks, then places in a segment
        const Segment* segment;
    };
    void find_cell(Search& search) const;
    void find_blocks(Search& search) const;
    void find_block(Search& search) const;
    void reach_weights(const Search& search) const;
    int64_t owner(const Search& search) const;

private:
    static constexpr uint64_t block = 16, near = 4;

    float weight(int64_t id) const { return uint64_t(id) < pool_->weight_count ? pool_->weights[id] : 0; }
    // A positive weight, however small, owns a unit.
    uint32_t units(float weight) const {
        const auto whole = uint32_t(int32_t(double(weight) * scale_));
        return whole + uint32_t(weight > 0 && !whole);
    }
    float largest() const;
    uint64_t skew(const Segment& segment) const;  // places that its first block lacks
    void sum_blocks();
    void make_guide();

    const Pool* pool_;
    double scale_;  // a power of two
    std::vector<uint64_t, HugePages<uint64_t>>
        begins_;   // units before each block; then the total, more than `near` times over
    Ends blocks_;  // of each segment: a block never crosses segments
    std::vector<uint32_t, HugePages<uint32_t>>
        guide_;  // unit >> shift_ -> the first block that ends above those units
    int shift_ = 0;
};

}  // namespace discl
