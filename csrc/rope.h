// Bytes end to end, own ones and borrowed ones, that are written without being copied together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace discl {

using Owner = std::shared_ptr<const void>;  // keeps borrowed bytes where and as they are

class Rope {
public:
    struct Mark {
        size_t own, borrowed;
    };

    std::string& own() { return own_; }  // to append to
    void borrow(std::string_view bytes, Owner owner) {
        borrowed_.push_back({own_.size(), bytes, std::move(owner)});
        borrowed_bytes_ += bytes.size();
    }

    uint64_t size() const { return own_.size() + borrowed_bytes_; }
    std::vector<std::string_view> pieces() const {
        std::vector<std::string_view> out;
        size_t at = 0;
        for (const Borrowed& piece : borrowed_) {
            out.push_back(std::string_view(own_).substr(at, piece.at - at));
            out.push_back(piece.bytes);
            at = piece.at;
        }
        out.push_back(std::string_view(own_).substr(at));
        return out;
    }

    Mark mark() const { return {own_.size(), borrowed_.size()}; }
    void cut(Mark mark) {  // to where it was then
        own_.resize(mark.own);
        for (; borrowed_.size() > mark.borrowed; borrowed_.pop_back())
            borrowed_bytes_ -= borrowed_.back().bytes.size();
    }

    // Empties it; the owners go to `out`, so that the caller chooses where they let go.
    void clear(std::vector<Owner>& out) {
        for (Borrowed& piece : borrowed_) out.push_back(std::move(piece.owner));
        cut({0, 0});
    }

private:
    struct Borrowed {
        size_t at;  // how many of the own bytes come first
        std::string_view bytes;
        Owner owner;
    };

    std::string own_;
    std::vector<Borrowed> borrowed_;
    uint64_t borrowed_bytes_ = 0;
};

// Reads pieces from the first byte on.
class PieceReader {
public:
    explicit PieceReader(std::vector<std::string_view> pieces) : pieces_(std::move(pieces)) {}

    std::string_view take(uint64_t bytes) {  // that lie in one piece
        while (bytes && pieces_[piece_].empty()) ++piece_;
        std::string_view& rest = pieces_[piece_];
        const std::string_view out = rest.substr(0, bytes);
        rest.remove_prefix(bytes);
        return out;
    }

private:
    std::vector<std::string_view> pieces_;
    size_t piece_ = 0;
};

}  // namespace discl
