// What the sealing of a shard needs of every sample, kept in memory: rows as lines of JSON, embeddings end to end.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

#include "huge_pages.h"

namespace discl {

class KeptRows {
public:
    // Throws std::invalid_argument, and takes nothing, for an embedding of another width than those before.
    void append(std::string_view row, std::string_view embedding) {
        if (!embedding.empty() && width_ && embedding.size() != width_)
            throw std::invalid_argument("an embedding of " + std::to_string(embedding.size()) +
                                        " bytes among those of " + std::to_string(width_));
        if (!embedding.empty() && !width_) {
            width_ = embedding.size();
            for (uint64_t i = 0; i < samples_; ++i) append_missing();
        }
        if (!embedding.empty()) embeddings_.append(embedding);
        else append_missing();
        lines_.append(row).push_back('\n');
        ++samples_;
    }

    std::string_view lines() const { return lines_; }
    // fp16, a row of NaN for a sample without; none at all while no sample has one.
    std::string_view embeddings() const { return embeddings_; }
    uint64_t embedding_bytes() const { return width_; }  // of one; 0: no sample has one

private:
    void append_missing() {
        for (uint64_t i = 0; i < width_; ++i) embeddings_.push_back(i % 2 ? '\x7e' : '\0');
    }

    // A shard's come to tens of megabytes, touched once: in small pages most of the time would go into faults.
    HugeBytes lines_, embeddings_;
    uint64_t width_ = 0, samples_ = 0;
};

}  // namespace discl
