// The columns of an index in Arrow's layout (Columnar.html of its format's specification), grown row by row: the
// sealing of a shard then has nothing to parse. Strings and lists are Arrow's large ones, with offsets of 64 bits.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "huge_pages.h"

namespace discl {

class Bits {
public:
    void push(bool bit) {
        if (size_ % 8 == 0) bytes_.push_back('\0');
        bytes_.back() = char(bytes_.back() | bit << size_ % 8);
        ++size_;
    }
    std::string_view bytes() const { return bytes_; }

private:
    HugeBytes bytes_;
    uint64_t size_ = 0;
};

class Column {
public:
    // s: string, S: list of strings, b: bool, i: int32, l: int64, f: float32, t: microseconds since 1970, int64
    explicit Column(char kind) : kind_(kind) {
        if (kind == 'S') items_ = std::make_unique<Column>('s');
    }

    char kind() const { return kind_; }
    Column& items() { return *items_; }  // of lists: what is pushed there goes into the list that is pushed next

    void push_null() {
        present_.push(false);
        if (kind_ == 's' || kind_ == 'S') ends_.push_back(ends_.back());
        else if (kind_ == 'b') bits_.push(false);
        else values_.append(kind_ == 'i' || kind_ == 'f' ? 4 : 8, '\0');
    }
    void push_bool(bool value) {
        present_.push(true);
        bits_.push(value);
    }
    void push_list() {
        present_.push(true);
        ends_.push_back(int64_t(items_->ends_.size()) - 1);
    }
    void push_text(std::string_view text) {
        present_.push(true);
        values_.append(text);
        ends_.push_back(int64_t(values_.size()));
    }
    template <class Number>
    void push_number(Number value) {  // of the column's own type
        present_.push(true);
        values_.append(reinterpret_cast<const char*>(&value), sizeof value);
    }

    // In Arrow's order: which are present, offsets, values; of lists their own two, then those of the strings.
    std::vector<std::string_view> buffers() const {
        const std::string_view ends(reinterpret_cast<const char*>(ends_.data()), ends_.size() * sizeof(int64_t));
        switch (kind_) {
            case 's': return {present_.bytes(), ends, values_};
            case 'b': return {present_.bytes(), bits_.bytes()};
            case 'S': {
                std::vector<std::string_view> all = items_->buffers();
                all.insert(all.begin(), {present_.bytes(), ends});
                return all;
            }
            default: return {present_.bytes(), values_};
        }
    }

private:
    char kind_;
    Bits present_, bits_;
    std::vector<int64_t> ends_{0};
    HugeBytes values_;
    std::unique_ptr<Column> items_;
};

}  // namespace discl
