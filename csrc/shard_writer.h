// Samples in, one unsealed shard out: a growing tar and its journal (format.h). Opening an existing pair
// recovers it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "file.h"
#include "format.h"
#include "kept_rows.h"
#include "write_behind.h"

namespace discl {

struct Floats {
    const float* values = nullptr;
    size_t count = 0;
};

struct Sample {
    std::string_view key, extension;  // extension empty: no image, only a row
    std::string_view image;
    uint64_t in_tar;                  // the tar's JSON is a brace and the row from this byte on
    std::string_view row, embedding;  // for the journal
    Owner owner;                      // of the image, which is then not copied; empty: it is
    Floats floats{};                  // the embedding where it is not fp16 yet
};

// Where an image lies in the tar; offset = no_data: the sample has none.
struct TarPlace {
    uint64_t offset, length;
    uint32_t crc;
};

struct Record {
    std::string row, embedding;
    TarPlace place;
};

class ShardWriter {
public:
    // Makes the pair, or cuts both files after the last sample that verifies.
    ShardWriter(const std::string& tar, const std::string& journal, SyncEvery every);

    // False: the sample is not taken, wait_for_room and try again; what the disk refuses is thrown there.
    bool append(const Sample& sample);
    void wait_for_room() { behind_.wait_for_room(); }
    void flush() { behind_.flush(); }  // everything appended is durable
    std::vector<Record> records();     // read back and verified; throws if fewer than samples() verify
    void finish();                     // footer and fsync; the pair can still be recovered afterwards
    void close() { behind_.close(); }  // nothing can be appended any more, nothing will be written
    bool forked() const { return behind_.forked(); }

    uint64_t samples() { return behind_.appended().samples; }
    uint64_t synced_samples() { return behind_.synced().samples; }
    uint64_t written_bytes();  // what was appended takes, tar and journal together
    const KeptRows& rows() const { return rows_; }  // of every sample, recovered ones too
    // Of a finished shard:
    const std::vector<TarPlace>& places() const { return places_; }
    uint64_t tar_bytes() const { return tar_.size(); }
    uint32_t tar_crc() const { return tar_crc_; }

private:
    void read_header();
    Extent recover();
    bool next_record(Extent at, RecordHeader& header, std::string& payload) const;
    void note(const RecordHeader& header);
    void complete(WriteBatch& batch);

    File journal_, tar_;  // in this order: a shard exists when its journal does
    std::vector<TarPlace> places_;  // of what is written
    uint32_t tar_crc_ = 0;       // of what is written
    KeptRows rows_;
    WriteBehind behind_;         // last: its threads end before the rest goes
};

}  // namespace discl
