// Plain USTAR: a name and bytes in, a header, the bytes and padding out; and back. Deterministic: mode 0644,
// owner 0, time 0.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "file.h"

namespace discl {

struct Member {
    std::string name;
    uint64_t offset, length;  // of the data
};

// Appends the header of the member <stem>.<extension>, behind which its data and their padding belong. Throws
// std::invalid_argument for a name or a length that the header cannot hold.
void append_header(std::string& out, std::string_view stem, std::string_view extension, uint64_t length);
void append_padding(std::string& out, uint64_t length);

// Every member of a finished tar. Throws std::runtime_error for a bad header, a member that is no plain file,
// a cut-off file and a missing or dirty footer.
std::vector<Member> tar_members(const File& file);

}  // namespace discl
