#include "key_table.h"

#include <stdexcept>

namespace discl {

__extension__ typedef unsigned __int128 uint128_t;

// The value of every character as a hex digit; -1: it is none.
static constexpr std::array<int8_t, 256> digits = [] {
    std::array<int8_t, 256> values{};
    for (int8_t& value : values) value = -1;
    for (int8_t i = 0; i < 16; ++i) values[uint8_t("0123456789abcdef"[i])] = i;
    return values;
}();

bool parse_key(std::string_view hex, Key& key) {
    if (hex.size() != 32) return false;
    int all = 0;  // negative once a digit is none
    for (size_t i = 0; i < 32; ++i) {
        const int digit = digits[uint8_t(hex[i])];
        all |= digit;
        key[i / 16] = key[i / 16] << 4 | uint64_t(digit & 15);
    }
    return all >= 0;
}

// Uniform in [0, slots) also for keys that are no digests (counters in tests, say).
static uint64_t hash(const Key& key, uint64_t slots) {
    uint64_t word = (key[0] ^ (key[1] * 0x9E3779B97F4A7C15)) * 0xBF58476D1CE4E5B9;
    word = (word ^ word >> 32) * 0x94D049BB133111EB;
    return uint64_t(uint128_t{word} * slots >> 64);
}

uint64_t KeyTable::slot_of(const Key& key) const {
    uint64_t slot = hash(key, slots_.size());
    while (slots_[slot] != empty && (*this)[slots_[slot]] != key)
        if (++slot == slots_.size()) slot = 0;
    return slot;
}

uint64_t KeyTable::find(const Key& key) const {
    if (slots_.empty()) return none;
    const uint32_t number = slots_[slot_of(key)];
    return number == empty ? none : number;
}

bool KeyTable::add(const Key& key) {
    if (5 * (size_ + 1) > 4 * slots_.size()) rehash(smallest + slots_.size() + slots_.size() / 2);
    uint32_t& number = slots_[slot_of(key)];
    if (number != empty) return false;
    if (size_ == empty) throw std::length_error("a key table holds at most 2^32 - 1 keys");
    if (size_ % block == 0) blocks_.emplace_back(new Key[block]);
    blocks_.back()[size_ % block] = key;
    number = uint32_t(size_++);
    return true;
}

void KeyTable::reserve(uint64_t keys) {
    const uint64_t slots = smallest + keys + keys / 4;
    if (slots > slots_.size()) rehash(slots);
}

void KeyTable::rehash(uint64_t slots) {
    slots_ = {};  // the old ones first: they are made from the keys alone
    slots_.assign(slots, empty);
    for (uint64_t number = 0; number < size_; ++number) slots_[slot_of((*this)[number])] = uint32_t(number);
}

}  // namespace discl
