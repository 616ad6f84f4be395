#include "open_files.h"

namespace discl {

std::shared_ptr<const ShardReader> OpenFiles::known(const std::string& path) {
    const auto found = places_.find(path);
    if (found == places_.end()) return nullptr;
    recent_.splice(recent_.begin(), recent_, found->second);
    return found->second->second;
}

std::shared_ptr<const ShardReader> OpenFiles::open(const std::string& path) {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (auto file = known(path)) return file;
    }
    // Opening can take long on a network: other threads go on meanwhile.
    auto opened = std::make_shared<const ShardReader>(path);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (auto file = known(path)) return file;
    recent_.emplace_front(path, opened);
    places_[path] = recent_.begin();
    if (recent_.size() > limit_) places_.erase(recent_.back().first), recent_.pop_back();
    return opened;
}

}  // namespace discl
