#include "batch_reader.h"

#include <stdexcept>

namespace discl {

constexpr uint64_t largest_file = 1 << 30;  // of one image: more is no image

Batch::Batch(std::vector<std::string> files, std::vector<Place> places, std::shared_ptr<Arena> arena)
    : files_(std::move(files)),
      places_(std::move(places)),
      arena_(std::move(arena)),
      images_(places_.size()),
      left_(places_.size()) {
    for (const Place& place : places_)
        if (place.file >= files_.size())
            throw std::out_of_range("place in file " + std::to_string(place.file) + " of " +
                                    std::to_string(files_.size()));
}

void Batch::wait() const {
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return !left_; });
}

void Batch::count_as_read() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!--left_) done_.notify_all();
}

void Batch::read(size_t i, OpenFiles& shards) noexcept {
    Image& image = images_[i];
    try {
        const Place& place = places_[i];
        if (place.length == Place::whole) read_file(files_[place.file], image);
        else read_piece(place, shards, image);
        image.header = read_image_header(image.bytes);
    } catch (const std::exception& error) {
        image.bytes = {};
        image.error = error.what();
    }
    count_as_read();
}

void Batch::read_piece(const Place& place, OpenFiles& shards, Image& image) {
    const auto shard = shards.open(files_[place.file]);
    shard->check_bounds(place.offset, place.length);  // before memory is taken for a length that cannot be
    char* out = arena_->take(place.length);
    shard->read(place.offset, out, place.length, place.crc);
    image.bytes = {out, place.length};
}

void Batch::read_file(const std::string& path, Image& image) {
    const File file(path, File::Mode::read);
    const uint64_t length = file.size();
    if (length > largest_file)
        throw std::runtime_error(path + ": " + std::to_string(length) + " bytes are no image");
    char* out = arena_->take(length);
    file.read(0, out, length);
    image.bytes = {out, length};
}

BatchReader::BatchReader(unsigned threads, size_t open_files) : shards_(open_files) {
    for (unsigned i = 0; i < (threads ? threads : 1); ++i) threads_.emplace_back(&BatchReader::work, this);
}

BatchReader::~BatchReader() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

std::shared_ptr<const Batch> BatchReader::submit(std::vector<std::string> files, std::vector<Place> places) {
    const auto batch = std::make_shared<Batch>(std::move(files), std::move(places), arenas_.lend());
    if (!batch->size()) return batch;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        waiting_.push_back(batch);
    }
    wake_.notify_all();
    return batch;
}

void BatchReader::work() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        wake_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
        if (waiting_.empty()) return;
        const std::shared_ptr<Batch> batch = waiting_.front();
        const size_t i = batch->next_++;
        if (batch->next_ == batch->size()) waiting_.pop_front();
        lock.unlock();
        batch->read(i, shards_);
        lock.lock();
    }
}

}  // namespace discl
