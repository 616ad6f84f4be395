// Samples appended in memory, written behind the caller's back by one thread and fsynced in groups by another.
//
// The caller waits only when `largest_backlog` bytes are unwritten. Both files are written a batch at a time: the
// page cache takes calls of 512 KiB three times faster than calls of one 20 kB image, and as long as the writing thread
// keeps up, the same two batches serve again and again, so that they stay in the processor's cache.
#pragma once

#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "file.h"
#include "rope.h"

namespace discl {

// How far a shard's two files go.
struct Extent {
    uint64_t tar = 0, journal = 0, samples = 0;
};

// Whole samples and the place they go to.
struct WriteBatch {
    Extent begin;
    Rope tar;
    std::string journal;
    uint64_t samples = 0;

    Extent end() const {
        return {begin.tar + tar.size(), begin.journal + journal.size(), begin.samples + samples};
    }
    uint64_t bytes() const { return tar.size() + journal.size(); }
    void restart(Extent at, std::vector<Owner>& done);
};

// A group is fsynced when it has this many samples, or when its first is this old.
struct SyncEvery {
    uint64_t samples;
    double seconds;
};

class WriteBehind {
public:
    using Complete = std::function<void(WriteBatch&)>;

    // `complete` is called once per batch, on the writing thread, before the batch is written.
    WriteBehind(File& tar, File& journal, Extent ends, SyncEvery every, Complete complete);
    ~WriteBehind() { close(); }

    // Calls fill(batch), which appends one sample to the batch or throws and leaves it as it was. False: the sample is
    // not taken, since there is no room or a write failed; wait_for_room first.
    // Borrowed bytes that are written are let go of in this call, by its thread.
    template <class Fill>
    bool append(Fill&& fill) {
        std::vector<Owner> done;
        const std::lock_guard lock(mutex_);
        done.swap(done_);
        if (stopping_ || forked()) throw std::runtime_error(tar_.path() + ": this writer is closed");
        if (failure_ || broken_ || backlog() >= largest_backlog) return false;
        fill(filling_);
        ++filling_.samples;
        const bool full = filling_.bytes() >= large;
        if (full) put_away();
        if (std::exchange(idle_, false) || full) work_.notify_one();
        return true;
    }
    void wait_for_room();  // what failed is tried again; throws if that fails
    Extent appended();
    Extent synced();
    void flush();  // returns when all that was appended is durable
    void stop();   // the same as close, but throws if not all is written
    void sync_or_cut();  // fsyncs the files as they are, and once their names; of stopped threads
    bool forked() const { return ::getpid() != owner_; }  // a forked child has no such threads
    void close();  // writes what was appended, does not wait for the disk, and ends the threads

private:
    using Clock = std::chrono::steady_clock;
    static constexpr uint64_t large = 512 << 10, largest_backlog = 8 << 20;
    static constexpr std::chrono::milliseconds linger{2};  // how long a small batch waits for company

    uint64_t backlog() const { return full_bytes_ + filling_.bytes(); }
    void put_away();
    void take_next();
    void raise_failure() const;
    template <class Done>
    void wait_for(std::unique_lock<std::mutex>& lock, Done&& done);
    void write_loop();
    bool next_batch(std::unique_lock<std::mutex>& lock);
    std::exception_ptr write_batch();
    void sync_loop();
    bool sync_due() const;
    bool await_group(std::unique_lock<std::mutex>& lock);
    void cut();
    void wait_until_written(std::unique_lock<std::mutex>& lock);

    File &tar_, &journal_;
    const SyncEvery every_;
    const Complete complete_;
    const pid_t owner_ = ::getpid();

    std::mutex mutex_;  // guards everything below
    std::condition_variable work_, written_more_, changed_;
    WriteBatch filling_, writing_;  // writing_ is the writing thread's own while it has samples
    std::deque<WriteBatch> full_;   // between these two
    std::vector<WriteBatch> spare_;
    uint64_t full_bytes_ = 0;
    std::vector<Owner> done_;  // of bytes that are written
    Extent written_, synced_;
    uint64_t flush_to_ = 0;
    bool named_ = false;  // the folder was fsynced since the files were opened; the syncing thread's own
    Clock::time_point unsynced_since_;
    bool idle_ = false, completed_ = false, stopping_ = false;
    std::exception_ptr failure_;  // of a write: it waits for a call that has it tried again
    std::exception_ptr broken_;   // of an fsync: for ever

    std::thread writer_, syncer_;
};

}  // namespace discl
