// The bytes of an unsealed shard, on one screen. Version 1, little-endian.
//
//   NNNNNN.tar.tmp   per sample: <key>.<jpg|png|webp>, then <key>.json; plain USTAR members, nothing between
//   them.
//                    Sealing appends two zero blocks and renames it to NNNNNN.tar.
//   NNNNNN.journal   JournalHeader, then per sample: RecordHeader, row (UTF-8 JSON), embedding (fp16).
//
// A sample's tar bytes are written before its record. Records lie end to end and so do their tar spans; the
// first record that does not verify, or whose tar span does not, ends the shard: everything behind it is cut
// off. A sample without an image has an empty tar span and data_offset = no_data.
#pragma once

#include <cstdint>

namespace discl {

constexpr uint32_t journal_magic = 0x4A4C5344;  // "DSLJ"
constexpr uint32_t record_magic = 0x524C5344;   // "DSLR"
constexpr uint32_t journal_version = 1;
constexpr uint64_t no_data = UINT64_MAX;
constexpr uint64_t tar_block = 512;

struct JournalHeader {
    uint32_t magic, version;
};

struct RecordHeader {
    uint32_t magic;
    uint32_t crc;  // CRC32C of the rest of this header, the row and the embedding
    uint32_t row_bytes, embedding_bytes;
    uint64_t tar_begin, tar_end;        // the sample's members with headers and padding
    uint64_t data_offset, data_length;  // the image inside the tar
    uint32_t tar_crc, data_crc;
};

static_assert(sizeof(JournalHeader) == 8 && sizeof(RecordHeader) == 56, "padding would change the format");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the structs are written as they lie in memory");

}  // namespace discl
