// Samples in, one unsealed shard out: a growing tar and its journal (format.h). Opening an existing pair
// recovers it.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "file.h"
#include "format.h"

namespace discl {

struct Sample {
    std::string_view key, extension;  // extension empty: no image, only a row
    std::string_view image, json;     // the two tar members
    std::string_view row, embedding;  // for the journal
};

struct Record {
    std::string row, embedding;
    bool has_image;
    uint64_t offset, length;
    uint32_t crc;
};

class ShardWriter {
public:
    // Makes the pair, or cuts both files after the last sample that verifies.
    ShardWriter(const std::string& tar, const std::string& journal);

    void append(const Sample& sample);
    void sync();                    // the tar, then the journal
    std::vector<Record> records();  // read back and verified; throws if fewer than samples() verify
    void finish();                  // footer, cut, fsync; the pair can still be recovered afterwards
    uint64_t samples() const { return samples_; }
    uint64_t written_bytes() const { return tar_end_ + journal_end_; }

private:
    void read_header();
    void recover();
    bool next_record(uint64_t at, uint64_t tar_at, RecordHeader& header, std::string& payload) const;

    std::mutex mutex_;
    File tar_, journal_;
    uint64_t tar_end_ = 0, journal_end_ = sizeof(JournalHeader), samples_ = 0;
};

}  // namespace discl
