// Batches of encoded images: places in files in, bytes in memory out, read by threads in the background.
//
// Batches are read in the order in which they are submitted, each by all threads. The bytes of a batch stay
// valid as long as the batch is held; its memory then serves a later one, so the ring is as long as what is
// held.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "arena.h"
#include "image_header.h"
#include "open_files.h"

namespace discl {

// `length` bytes of file number `file` at `offset`, with this CRC32C; or the whole file, unchecked.
struct Place {
    static constexpr uint64_t whole = UINT64_MAX;
    uint32_t file = 0, crc = 0;
    uint64_t offset = 0, length = whole;
};

struct Image {
    std::string_view bytes;
    ImageHeader header;
    std::string error;  // why there are no bytes; empty where there are
};

class Batch {
public:
    Batch(std::vector<std::string> files, std::vector<Place> places, std::shared_ptr<Arena> arena);

    void wait() const;  // until every image is read
    size_t size() const { return places_.size(); }
    const Image& operator[](size_t i) const { return images_[i]; }  // after wait()

private:
    friend class BatchReader;
    void read(size_t i, OpenFiles& shards) noexcept;
    void read_piece(const Place& place, OpenFiles& shards, Image& image);
    void read_file(const std::string& path, Image& image);
    void count_as_read();

    const std::vector<std::string> files_;
    const std::vector<Place> places_;
    const std::shared_ptr<Arena> arena_;
    std::vector<Image> images_;
    size_t next_ = 0;  // that no thread has taken; belongs to the reader's lock
    size_t left_;
    mutable std::mutex mutex_;
    mutable std::condition_variable done_;
};

class BatchReader {
public:
    // `open_files`: shards that are kept open.
    BatchReader(unsigned threads, size_t open_files);
    // Submitted batches are finished first.
    ~BatchReader();
    BatchReader(const BatchReader&) = delete;
    BatchReader& operator=(const BatchReader&) = delete;

    // Returns at once. Throws std::out_of_range for a place in a file that is not there.
    std::shared_ptr<const Batch> submit(std::vector<std::string> files, std::vector<Place> places);

private:
    void work();

    OpenFiles shards_;
    Arenas arenas_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<std::shared_ptr<Batch>> waiting_;
    bool stopping_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace discl
