#include "shard_writer.h"

#include <cstring>
#include <stdexcept>

#include "crc32c.h"
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

ShardWriter::ShardWriter(const std::string& tar, const std::string& journal)
    : tar_(tar, File::Mode::write), journal_(journal, File::Mode::write) {
    read_header();
    recover();
}

// A header that is cut short or all zero was never synced, so nothing behind it was either: the shard begins
// anew.
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
    journal_.sync();
}

bool ShardWriter::next_record(uint64_t at, uint64_t tar_at, RecordHeader& header,
                              std::string& payload) const {
    const uint64_t journal_size = journal_.size(), tar_size = tar_.size();
    if (journal_size < at + sizeof header) return false;
    journal_.read(at, reinterpret_cast<char*>(&header), sizeof header);
    const uint64_t payload_bytes = uint64_t{header.row_bytes} + header.embedding_bytes;
    if (header.magic != record_magic || payload_bytes > journal_size - at - sizeof header) return false;
    payload = journal_.read(at + sizeof header, payload_bytes);
    if (record_crc(header, payload) != header.crc) return false;
    if (header.tar_begin != tar_at || header.tar_end < tar_at || header.tar_end > tar_size) return false;
    return crc32c(tar_.read(tar_at, header.tar_end - tar_at)) == header.tar_crc;
}

void ShardWriter::recover() {
    RecordHeader header;
    std::string payload;
    while (next_record(journal_end_, tar_end_, header, payload)) {
        journal_end_ += sizeof header + payload.size();
        tar_end_ = header.tar_end;
        ++samples_;
    }
    journal_.truncate(journal_end_);
    tar_.truncate(tar_end_);
}

void ShardWriter::append(const Sample& sample) {
    const std::lock_guard lock(mutex_);
    std::string span;
    RecordHeader header{};
    header.data_offset = no_data;
    if (!sample.extension.empty()) {
        const std::string stem = std::string(sample.key) + ".";
        header.data_offset =
            tar_end_ + append_member(span, stem + std::string(sample.extension), sample.image);
        append_member(span, stem + "json", sample.json);
    }
    if (sample.row.size() > UINT32_MAX || sample.embedding.size() > UINT32_MAX)
        throw std::invalid_argument("the row of sample " + std::string(sample.key) + " is larger than 4 GiB");
    header.magic = record_magic;
    header.row_bytes = uint32_t(sample.row.size());
    header.embedding_bytes = uint32_t(sample.embedding.size());
    header.tar_begin = tar_end_;
    header.tar_end = tar_end_ + span.size();
    header.data_length = sample.image.size();
    header.tar_crc = crc32c(span);
    header.data_crc = crc32c(sample.image);
    const std::string payload = std::string(sample.row).append(sample.embedding);
    header.crc = record_crc(header, payload);
    // The ends move only after both writes, so what a failed write left behind is overwritten or cut off.
    tar_.write(tar_end_, span);
    journal_.write(journal_end_, std::string(bytes_of(header)) + payload);
    tar_end_ = header.tar_end;
    journal_end_ += sizeof header + payload.size();
    ++samples_;
}

void ShardWriter::sync() {
    const std::lock_guard lock(mutex_);
    tar_.sync();
    journal_.sync();
}

std::vector<Record> ShardWriter::records() {
    const std::lock_guard lock(mutex_);
    std::vector<Record> records;
    RecordHeader header;
    std::string payload;
    uint64_t at = sizeof(JournalHeader), tar_at = 0;
    while (records.size() < samples_) {
        if (!next_record(at, tar_at, header, payload))
            throw std::runtime_error(journal_.path() + " at offset " + std::to_string(at) + ": sample " +
                                     std::to_string(records.size()) + " of " + std::to_string(samples_) +
                                     " reads back other than it was written");
        at += sizeof header + payload.size();
        tar_at = header.tar_end;
        records.push_back({payload.substr(0, header.row_bytes), payload.substr(header.row_bytes),
                           header.data_offset != no_data, header.data_offset, header.data_length,
                           header.data_crc});
    }
    return records;
}

void ShardWriter::finish() {
    const std::lock_guard lock(mutex_);
    journal_.truncate(journal_end_);
    tar_.truncate(tar_end_);
    tar_.write(tar_end_, std::string(2 * tar_block, '\0'));
    tar_.sync();
    journal_.sync();
}

}  // namespace discl
