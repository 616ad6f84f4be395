// Paths in, open shards out: one descriptor per shard, of which the least recently used are closed.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "shard_reader.h"

namespace discl {

class OpenFiles {
public:
    explicit OpenFiles(size_t limit) : limit_(limit ? limit : 1) {}

    // Stays open as long as it is held, also when it has left the list. Throws std::system_error.
    std::shared_ptr<const ShardReader> open(const std::string& path);

private:
    using Entry = std::pair<std::string, std::shared_ptr<const ShardReader>>;

    std::shared_ptr<const ShardReader> known(const std::string& path);

    const size_t limit_;
    std::mutex mutex_;
    std::list<Entry> recent_;  // the most recently used first
    std::unordered_map<std::string, std::list<Entry>::iterator> places_;
};

}  // namespace discl
