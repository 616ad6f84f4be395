#include "shard_writer.h"

#include <cstddef>
#include <cstring>
#include <stdexcept>

#include "crc32c.h"
#include "half.h"
#include "tar.h"

namespace discl {

template <class Struct>
static std::string_view bytes_of(const Struct& value) {
    return {reinterpret_cast<const char*>(&value), sizeof value};
}

static uint32_t record_crc(const RecordHeader& header, std::string_view payload) {
    constexpr size_t covered = offsetof(RecordHeader, row_bytes);
    return crc32c(payload, crc32c(bytes_of(header).substr(covered)));
}

static uint64_t payload_bytes(const RecordHeader& header) {
    return uint64_t{header.row_bytes} + header.embedding_bytes;
}

ShardWriter::ShardWriter(const std::string& tar, const std::string& journal, SyncEvery every)
    : journal_(journal, File::Mode::write),
      tar_(tar, File::Mode::write),
      behind_(tar_, journal_, recover(), every, [this](WriteBatch& batch) { complete(batch); }) {}

// The first group's sync makes the header durable too. One that is cut short or all zero was never synced, so nothing
// behind it was either: the shard begins anew.
void ShardWriter::read_header() {
    JournalHeader header{};
    if (journal_.size() >= sizeof header) journal_.read(0, reinterpret_cast<char*>(&header), sizeof header);
    if (header.magic == journal_magic && header.version > journal_version)
        throw std::runtime_error(
            journal_.path() + " at offset 4: written by a newer version, journal format " +
            std::to_string(header.version) + "; this one reads up to " + std::to_string(journal_version));
    if (header.magic == journal_magic && header.version == journal_version) return;
    header = {journal_magic, journal_version};
    journal_.truncate(0);
    journal_.write(0, bytes_of(header));
}

bool ShardWriter::next_record(Extent at, RecordHeader& header, std::string& payload) const {
    const uint64_t journal_size = journal_.size(), tar_size = tar_.size();
    if (journal_size < at.journal + sizeof header) return false;
    journal_.read(at.journal, reinterpret_cast<char*>(&header), sizeof header);
    if (header.magic != record_magic || payload_bytes(header) > journal_size - at.journal - sizeof header)
        return false;
    payload = journal_.read(at.journal + sizeof header, payload_bytes(header));
    if (record_crc(header, payload) != header.crc) return false;
    if (header.tar_begin != at.tar || header.tar_end < at.tar || header.tar_end > tar_size) return false;
    const bool inside = header.data_offset >= at.tar && header.data_offset <= header.tar_end &&
                        header.data_length <= header.tar_end - header.data_offset;
    if (header.data_offset != no_data && !inside) return false;
    return crc32c(tar_.read(at.tar, header.tar_end - at.tar)) == header.tar_crc;
}

static Extent behind(Extent at, const RecordHeader& header) {
    return {header.tar_end, at.journal + sizeof header + payload_bytes(header), at.samples + 1};
}

// What is found may still be in the page cache only: it is synced before anybody builds on it.
Extent ShardWriter::recover() {
    read_header();
    Extent ends{0, sizeof(JournalHeader), 0};
    RecordHeader header;
    std::string payload;
    for (; next_record(ends, header, payload); ends = behind(ends, header)) {
        const std::string_view both(payload);
        try {
            rows_.append(both.substr(0, header.row_bytes), both.substr(header.row_bytes));
        } catch (const std::invalid_argument& error) {
            throw std::runtime_error(journal_.path() + " at offset " + std::to_string(ends.journal) + ": " +
                                     error.what());
        }
        note(header);
    }
    journal_.truncate(ends.journal);
    tar_.truncate(ends.tar);
    if (ends.samples) {
        tar_.sync();
        journal_.sync();
    }
    return ends;
}

void ShardWriter::note(const RecordHeader& header) {
    places_.push_back({header.data_offset, header.data_length, header.data_crc});
    tar_crc_ = crc32c_joined(tar_crc_, header.tar_crc, header.tar_end - header.tar_begin);
}

constexpr uint64_t least_borrowed = 4096;  // a shorter image is copied in less time than its owner is counted

static uint64_t embedding_bytes(const Sample& sample) {
    return sample.embedding.size() + sizeof(uint16_t) * sample.floats.count;
}

// A sample's tar members, and its record without the checksums, which `complete` enters.
static void fill(WriteBatch& batch, const Sample& sample) {
    const auto end = [&] { return batch.begin.tar + batch.tar.size(); };
    RecordHeader header{};
    header.magic = record_magic;
    header.row_bytes = uint32_t(sample.row.size());
    header.embedding_bytes = uint32_t(embedding_bytes(sample));
    header.tar_begin = end();
    header.data_offset = no_data;
    header.data_length = sample.image.size();
    if (!sample.extension.empty()) {
        std::string& out = batch.tar.own();
        append_header(out, sample.key, sample.extension, sample.image.size());
        header.data_offset = end();
        if (sample.owner && sample.image.size() >= least_borrowed) batch.tar.borrow(sample.image, sample.owner);
        else out.append(sample.image);
        append_padding(out, sample.image.size());
        const std::string_view columns = sample.row.substr(sample.in_tar);
        append_header(out, sample.key, "json", 1 + columns.size());
        out.append(1, '{').append(columns);
        append_padding(out, 1 + columns.size());
    }
    header.tar_end = end();
    batch.journal.append(bytes_of(header)).append(sample.row).append(sample.embedding);
    append_halves(batch.journal, sample.floats.values, sample.floats.count);
}

bool ShardWriter::append(const Sample& sample) {
    if (sample.row.size() > UINT32_MAX || embedding_bytes(sample) > UINT32_MAX)
        throw std::invalid_argument("the row of sample " + std::string(sample.key) + " is larger than 4 GiB");
    return behind_.append([&](WriteBatch& batch) {
        const Rope::Mark tar = batch.tar.mark();
        const size_t journal = batch.journal.size();
        try {
            fill(batch, sample);
            const std::string_view records(batch.journal);
            rows_.append(sample.row, records.substr(records.size() - embedding_bytes(sample)));
        } catch (...) {
            batch.tar.cut(tar);
            batch.journal.resize(journal);
            throw;
        }
    });
}

// The image is summed once: the sum over the members is joined from those of its parts.
void ShardWriter::complete(WriteBatch& batch) {
    PieceReader tar(batch.tar.pieces());
    for (size_t at = 0; at < batch.journal.size();) {
        RecordHeader header;
        std::memcpy(&header, batch.journal.data() + at, sizeof header);
        if (header.data_offset != no_data) {
            const uint64_t image_end = header.data_offset + header.data_length;
            const uint32_t front = crc32c(tar.take(header.data_offset - header.tar_begin));
            header.data_crc = crc32c(tar.take(header.data_length));
            header.tar_crc = crc32c(tar.take(header.tar_end - image_end),
                                    crc32c_joined(front, header.data_crc, header.data_length));
        }
        const std::string_view payload =
            std::string_view(batch.journal).substr(at + sizeof header, payload_bytes(header));
        header.crc = record_crc(header, payload);
        std::memcpy(batch.journal.data() + at, &header, sizeof header);
        note(header);
        at += sizeof header + payload.size();
    }
}

uint64_t ShardWriter::written_bytes() {
    const Extent ends = behind_.appended();
    return ends.tar + ends.journal;
}

std::vector<Record> ShardWriter::records() {
    behind_.flush();
    std::vector<Record> records;
    RecordHeader header;
    std::string payload;
    const uint64_t samples = this->samples();
    for (Extent at{0, sizeof(JournalHeader), 0}; at.samples < samples; at = behind(at, header)) {
        if (!next_record(at, header, payload))
            throw std::runtime_error(journal_.path() + " at offset " + std::to_string(at.journal) +
                                     ": sample " + std::to_string(at.samples) + " of " +
                                     std::to_string(samples) + " reads back other than it was written");
        records.push_back({payload.substr(0, header.row_bytes), payload.substr(header.row_bytes),
                           {header.data_offset, header.data_length, header.data_crc}});
    }
    return records;
}

void ShardWriter::finish() {
    behind_.stop();
    const Extent ends = behind_.appended();
    const std::string footer(2 * tar_block, '\0');
    journal_.truncate(ends.journal);
    tar_.truncate(ends.tar);
    tar_.write(ends.tar, footer);
    behind_.sync_or_cut();
    tar_crc_ = crc32c(footer, tar_crc_);
}

}  // namespace discl
