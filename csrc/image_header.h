// The header of an encoded image in, what decoders may disagree about out. Nothing is decoded.
#pragma once

#include <cstdint>
#include <string_view>

namespace discl {

// `plain`: a JPEG, PNG or WebP that every decoder shows alike: 8 bits, grey or RGB (YCbCr), opaque, not
// turned by EXIF or XMP. What is damaged or not understood is not plain, and its size may be 0 x 0.
struct ImageHeader {
    uint32_t width = 0, height = 0;
    bool plain = false;
};

ImageHeader read_image_header(std::string_view bytes);

}  // namespace discl
