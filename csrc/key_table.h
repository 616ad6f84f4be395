// Distinct 16-byte keys, numbered in the order in which they are added; key in, number out.
//
// 16 bytes per key in blocks that never move, and 4-byte slots that are at most 4/5 full: 21 to 24 bytes per key.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

namespace discl {

using Key = std::array<uint64_t, 2>;

bool parse_key(std::string_view hex, Key& key);  // false unless it is 32 lowercase hex characters

class KeyTable {
public:
    static constexpr uint64_t none = UINT64_MAX;

    uint64_t size() const { return size_; }
    uint64_t find(const Key& key) const;  // its number, or none
    bool add(const Key& key);             // false: it is there already
    void reserve(uint64_t keys);
    const Key& operator[](uint64_t number) const { return blocks_[number / block][number % block]; }

private:
    static constexpr uint64_t block = 1 << 16, smallest = 1 << 10;
    static constexpr uint32_t empty = UINT32_MAX;

    uint64_t slot_of(const Key& key) const;  // of the key, or the empty one where it would go
    void rehash(uint64_t slots);

    std::vector<std::unique_ptr<Key[]>> blocks_;
    std::vector<uint32_t> slots_;  // numbers; a slot is looked for from the key's hash onward
    uint64_t size_ = 0;
};

}  // namespace discl
