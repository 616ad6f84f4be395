#include "write_behind.h"

#include <algorithm>

namespace discl {

void WriteBatch::restart(Extent at, std::vector<Owner>& done) {
    begin = at;
    tar.clear(done);
    journal.clear();
    samples = 0;
}

WriteBehind::WriteBehind(File& tar, File& journal, Extent ends, SyncEvery every, Complete complete)
    : tar_(tar), journal_(journal), every_(every), complete_(std::move(complete)), written_(ends), synced_(ends) {
    filling_.begin = ends;
    writer_ = std::thread(&WriteBehind::write_loop, this);
    syncer_ = std::thread(&WriteBehind::sync_loop, this);
}

void WriteBehind::close() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    work_.notify_all();
    written_more_.notify_all();
    if (writer_.joinable()) writer_.join();
    if (syncer_.joinable()) syncer_.join();
}

void WriteBehind::raise_failure() const {
    if (broken_) std::rethrow_exception(broken_);
    if (failure_) std::rethrow_exception(failure_);
}

// Returns when `done`, throws what prevents it. A batch whose write failed is tried again first.
template <class Done>
void WriteBehind::wait_for(std::unique_lock<std::mutex>& lock, Done&& done) {
    if (std::exchange(failure_, nullptr)) work_.notify_one();
    changed_.wait(lock, [&] { return failure_ || broken_ || done(); });
    raise_failure();
}

void WriteBehind::wait_for_room() {
    std::unique_lock lock(mutex_);
    const uint64_t tried_again = failure_ ? writing_.end().samples : 0;
    wait_for(lock, [&] { return written_.samples >= tried_again && backlog() < largest_backlog; });
}

Extent WriteBehind::appended() {
    const std::lock_guard lock(mutex_);
    return filling_.end();
}

Extent WriteBehind::synced() {
    const std::lock_guard lock(mutex_);
    return synced_;
}

void WriteBehind::wait_until_written(std::unique_lock<std::mutex>& lock) {
    flush_to_ = filling_.end().samples;
    work_.notify_one();
    wait_for(lock, [&] { return written_.samples >= flush_to_; });
}

void WriteBehind::flush() {
    std::unique_lock lock(mutex_);
    wait_until_written(lock);
    written_more_.notify_one();
    wait_for(lock, [&] { return synced_.samples >= flush_to_; });
}

void WriteBehind::stop() {
    {
        std::unique_lock lock(mutex_);
        wait_until_written(lock);
    }
    close();
    const std::lock_guard lock(mutex_);
    raise_failure();
}

// The batch that is filled is complete: the next one goes into memory that has been used before, the latest first.
void WriteBehind::put_away() {
    const Extent end = filling_.end();
    full_bytes_ += filling_.bytes();
    full_.push_back(std::move(filling_));
    filling_ = {};
    if (!spare_.empty()) filling_ = std::move(spare_.back()), spare_.pop_back();
    filling_.restart(end, done_);
}

// The oldest batch becomes the one that is written.
void WriteBehind::take_next() {
    if (full_.empty()) put_away();
    spare_.push_back(std::move(writing_));
    writing_ = std::move(full_.front());
    full_.pop_front();
    full_bytes_ -= writing_.bytes();
    completed_ = false;
}

// Chooses the batch to write next: one whose write failed, or what was filled meanwhile. False: there will be none.
bool WriteBehind::next_batch(std::unique_lock<std::mutex>& lock) {
    idle_ = true;
    work_.wait(lock, [&] { return stopping_ || (!failure_ && (writing_.samples || backlog())); });
    idle_ = false;
    if (failure_ || broken_) return false;
    if (writing_.samples) return true;
    work_.wait_for(lock, linger,
                   [&] { return stopping_ || !full_.empty() || flush_to_ > written_.samples; });
    if (!backlog()) return false;
    take_next();
    changed_.notify_all();
    return true;
}

void WriteBehind::write_loop() {
    std::unique_lock lock(mutex_);
    while (next_batch(lock)) {
        lock.unlock();
        const std::exception_ptr failure = write_batch();
        lock.lock();
        failure_ = failure;
        if (!failure) {
            if (written_.samples == synced_.samples) unsynced_since_ = Clock::now();
            written_ = writing_.end();
            writing_.restart(written_, done_);
            written_more_.notify_one();
        }
        changed_.notify_all();
    }
}

std::exception_ptr WriteBehind::write_batch() {
    try {
        if (!std::exchange(completed_, true)) complete_(writing_);
        tar_.write(writing_.begin.tar, writing_.tar.pieces());
        journal_.write(writing_.begin.journal, writing_.journal);
    } catch (...) {
        return std::current_exception();
    }
    return nullptr;
}

// Waits until a group of written samples is large or old enough, or asked for. False: there will be none.
bool WriteBehind::await_group(std::unique_lock<std::mutex>& lock) {
    const auto longest = std::chrono::duration<double>(std::min(every_.seconds, 1e6));
    const auto unsynced = [&] { return written_.samples - synced_.samples; };
    written_more_.wait(lock, [&] { return stopping_ || unsynced(); });
    written_more_.wait_until(lock, unsynced_since_ + std::chrono::duration_cast<Clock::duration>(longest), [&] {
        return stopping_ || unsynced() >= every_.samples || flush_to_ > synced_.samples;
    });
    return !stopping_;
}

void WriteBehind::sync_loop() {
    std::unique_lock lock(mutex_);
    while (!broken_ && await_group(lock)) {
        const Extent group = written_;
        const auto begin = Clock::now();
        std::exception_ptr failure;
        lock.unlock();
        try {
            sync_or_cut();
        } catch (...) {
            failure = std::current_exception();
        }
        lock.lock();
        unsynced_since_ = begin;
        broken_ = failure;
        if (!failure) synced_ = group;
        changed_.notify_all();
    }
}

// After a failed fsync the system forgets which pages it could not write and a second one would lie. So what lies
// behind the last good group is cut off: the next writer must not find it in the page cache and trust it. (A batch
// that is being written meanwhile leaves a hole in front of it, which ends the shard as well.)
void WriteBehind::sync_or_cut() {
    try {
        tar_.sync();
        journal_.sync();
        if (!named_) sync_folder_of(tar_.path());
        named_ = true;
    } catch (...) {
        const std::exception_ptr failure = std::current_exception();
        cut();
        std::rethrow_exception(failure);
    }
}

void WriteBehind::cut() {
    const Extent ends = synced();
    try {
        tar_.truncate(ends.tar);
        journal_.truncate(ends.journal);
    } catch (const std::exception&) {
        return;  // the disk refuses everything; the first error is the one to tell
    }
}

}  // namespace discl
