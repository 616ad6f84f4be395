// Searches of Weights, many at once: between two steps of one, each of `distance` others takes a step, and
// what the next step needs comes from memory meanwhile.
#pragma once

#include <array>
#include <cstdint>

#include "weights.h"

namespace discl {

class Searches {
public:
    // *owner is written by one of the next calls, by finish() at last.
    void begin(const Weights& weights, uint64_t unit, int64_t* owner) {
        Item& item = items_[begun_++ % items_.size()];
        item.weights = &weights, item.search.unit = unit, item.owner = owner;
        advance();
    }
    void finish() {
        while (ended_ < begun_) advance();
    }

private:
    static constexpr uint64_t distance = 12;

    struct Item {
        const Weights* weights;
        Weights::Search search;
        int64_t* owner;
    };

    Item* due(uint64_t step) {
        const uint64_t which = time_ - step * distance;  // wraps around before the first
        return which < begun_ ? &items_[which % items_.size()] : nullptr;
    }

    void advance() {
        if (Item* item = due(0)) item->weights->find_cell(item->search);
        if (Item* item = due(1)) item->weights->find_blocks(item->search);
        if (Item* item = due(2)) item->weights->find_block(item->search);
        if (Item* item = due(3)) item->weights->reach_weights(item->search);
        if (Item* item = due(4)) *item->owner = item->weights->owner(item->search), ++ended_;
        ++time_;
    }

    std::array<Item, 64> items_;  // more than 4 * distance
    uint64_t begun_ = 0, ended_ = 0, time_ = 0;
};

}  // namespace discl
