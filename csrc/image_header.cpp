#include "image_header.h"

#include <optional>

namespace discl {

constexpr uint64_t most_side = 16'384, most_pixels = 64'000'000;

// Reads integers and pieces of a string; a read past the end gives nothing.
class Bytes {
public:
    explicit Bytes(std::string_view bytes, bool big = true) : bytes_(bytes), big_(big) {}

    std::optional<uint32_t> integer(uint64_t at, int width) const {
        if (at > bytes_.size() || bytes_.size() - at < uint64_t(width)) return std::nullopt;
        uint32_t value = 0;
        for (int i = 0; i < width; ++i)
            value = value << 8 | uint8_t(bytes_[at + uint64_t(big_ ? i : width - 1 - i)]);
        return value;
    }
    std::string_view piece(uint64_t at, uint64_t length) const {
        return at > bytes_.size() ? std::string_view{} : bytes_.substr(at, length);
    }
    uint64_t size() const { return bytes_.size(); }

private:
    std::string_view bytes_;
    bool big_;
};

static bool starts(std::string_view bytes, std::string_view with) {
    return bytes.substr(0, with.size()) == with;
}

// XMP may turn an image too, where EXIF does not say anything.
static bool turned_by_xmp(std::string_view xmp) { return xmp.find("tiff:Orientation") != xmp.npos; }

// Whether decoders will agree how EXIF turns the image: its first directory has one orientation or none.
static bool clear_orientation(std::string_view tiff) {
    if (!starts(tiff, "II") && !starts(tiff, "MM")) return false;
    const Bytes bytes(tiff, tiff[0] == 'M');
    const auto directory = bytes.integer(4, 4);
    const auto entries = directory ? bytes.integer(*directory, 2) : std::nullopt;
    if (!entries) return false;
    int orientations = 0;
    for (uint64_t i = 0; i < *entries; ++i) {
        const uint64_t at = uint64_t{*directory} + 2 + 12 * i;
        const auto tag = bytes.integer(at, 2), type = bytes.integer(at + 2, 2);
        const auto count = bytes.integer(at + 4, 4);
        if (!tag || !type || !count || !bytes.integer(at + 8, 4)) return false;
        if (*tag == 0x0112 && (*type != 3 || *count != 1 || orientations++)) return false;
    }
    return true;
}

static bool is_exif(uint32_t marker, std::string_view data) {
    return marker == 0xE1 && starts(data, std::string_view("Exif\0\0", 6));
}

static bool plain_application_segment(uint32_t marker, std::string_view data) {
    if (is_exif(marker, data)) return clear_orientation(data.substr(6));
    if (marker == 0xE1) return !turned_by_xmp(data);
    const bool adobe = marker == 0xEE && starts(data, "Adobe");
    return !adobe || (data.size() >= 12 && data[11] == 1);  // YCbCr; few get Adobe's RGB and CMYK right
}

static void read_frame(std::string_view data, ImageHeader& header) {
    const Bytes bytes(data);
    const auto precision = bytes.integer(0, 1), components = bytes.integer(5, 1);
    header.height = bytes.integer(1, 2).value_or(0), header.width = bytes.integer(3, 2).value_or(0);
    const bool ids_say_rgb = bytes.integer(6, 1) == uint32_t('R') && bytes.integer(9, 1) == uint32_t('G');
    header.plain &= precision == 8u && (components == 1u || (components == 3u && !ids_say_rgb));
}

// Segments up to the first scan. Frames 0 to 2 are baseline, extended and progressive. Of two EXIF segments nvImageCodec
// takes the size from one and the orientation from the other, and writes past its buffer.
static ImageHeader jpeg(std::string_view data) {
    const Bytes bytes(data);
    ImageHeader header{0, 0, true};
    int exifs = 0;
    for (uint64_t at = 2;;) {
        const auto prefix = bytes.integer(at, 1), marker = bytes.integer(at + 1, 1);
        const auto length = bytes.integer(at + 2, 2);
        if (prefix != 0xFFu || !marker || !length || *length < 2) return {header.width, header.height, false};
        if (*marker == 0xDA) break;
        const std::string_view segment = bytes.piece(at + 4, *length - 2);
        if (*marker >= 0xC0 && *marker <= 0xC2) read_frame(segment, header);
        else if (*marker >= 0xC3 && *marker <= 0xCF && *marker != 0xC4 && *marker != 0xC8 && *marker != 0xCC)
            header.plain = false;
        else header.plain &= plain_application_segment(*marker, segment) && exifs + is_exif(*marker, segment) < 2;
        exifs += is_exif(*marker, segment);
        at += 2 + *length;
    }
    return header;
}

static bool plain_text(std::string_view text) {
    const bool xmp = starts(text, "XML:com.adobe.xmp");
    const bool compressed = text.size() > 18 && text[18];
    return !xmp || (!compressed && !turned_by_xmp(text));
}

static ImageHeader png(std::string_view data) {
    const Bytes bytes(data);
    ImageHeader header;
    for (uint64_t at = 8;;) {
        const auto length = bytes.integer(at, 4);
        const std::string_view type = bytes.piece(at + 4, 4);
        if (!length || type.size() < 4 || *length > bytes.size()) break;
        const std::string_view chunk = bytes.piece(at + 8, *length);
        const Bytes fields(chunk);
        if (type == "IHDR") {
            header.width = fields.integer(0, 4).value_or(0), header.height = fields.integer(4, 4).value_or(0);
            const auto colour = fields.integer(9, 1);
            header.plain = at == 8 && fields.integer(8, 1) == 8u && (colour == 0u || colour == 2u);
        } else if (type == "tRNS" || type == "eXIf" || type == "acTL" ||
                   (type == "iTXt" && !plain_text(chunk))) {
            header.plain = false;
        } else if (type == "IEND") {
            return header;
        }
        at += uint64_t{12} + *length;
    }
    return {header.width, header.height, false};
}

static void read_webp_chunk(std::string_view type, std::string_view chunk, ImageHeader& header) {
    const Bytes fields(chunk, false);
    if (type == "VP8 ") {
        header.width = fields.integer(6, 2).value_or(0) & 0x3FFF;
        header.height = fields.integer(8, 2).value_or(0) & 0x3FFF;
        header.plain &= fields.piece(3, 3) == "\x9D\x01\x2A";
    } else if (type == "VP8L") {
        const uint32_t bits = fields.integer(1, 4).value_or(0);
        header.width = (bits & 0x3FFF) + 1, header.height = (bits >> 14 & 0x3FFF) + 1;
        header.plain &= chunk.size() > 4 && chunk[0] == 0x2F && !(bits >> 28);  // no alpha, version 0
    } else if (type == "VP8X") {
        header.plain &= !(fields.integer(0, 1).value_or(0xFF) & 0x1A);  // alpha, EXIF, animation
    } else if (type == "EXIF" || type == "ALPH" || type == "ANIM" ||
               (type == "XMP " && turned_by_xmp(chunk))) {
        header.plain = false;
    }
}

static ImageHeader webp(std::string_view data) {
    const Bytes bytes(data, false);
    ImageHeader header{0, 0, true};
    for (uint64_t at = 12; at < bytes.size();) {
        const auto length = bytes.integer(at + 4, 4);
        const std::string_view type = bytes.piece(at, 4);
        if (!length || *length > bytes.size() - at - 8) return {header.width, header.height, false};
        if (type.size() == 4) read_webp_chunk(type, bytes.piece(at + 8, *length), header);
        at += uint64_t{8} + *length + *length % 2;
    }
    return header;
}

ImageHeader read_image_header(std::string_view bytes) {
    ImageHeader header;
    if (starts(bytes, "\xFF\xD8\xFF")) header = jpeg(bytes);
    if (starts(bytes, "\x89PNG\r\n\x1A\n")) header = png(bytes);
    if (starts(bytes, "RIFF") && Bytes(bytes).piece(8, 4) == "WEBP") header = webp(bytes);
    const uint64_t width = header.width, height = header.height;
    header.plain &=
        width && height && width <= most_side && height <= most_side && width * height <= most_pixels;
    return header;
}

}  // namespace discl
