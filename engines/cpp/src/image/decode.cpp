// The choice of a decoder by a file's first bytes, and the names of formats that have none here.
#include "image/decode.hpp"

#include <array>

#include "image/plain_files.hpp"

namespace oce::core {
namespace {

using namespace std::string_view_literals;

struct Magic {
    std::size_t offset;
    std::string_view bytes;
    const char* format;
};

constexpr std::array kUnsupported = {
    Magic{0, "GIF87a"sv, "GIF"},
    Magic{0, "GIF89a"sv, "GIF"},
    Magic{0, "BM"sv, "BMP"},
    Magic{0, "II*\0"sv, "TIFF"},
    Magic{0, "MM\0*"sv, "TIFF"},
    Magic{0, "II+\0"sv, "TIFF"},
    Magic{0, "MM\0+"sv, "TIFF"},
    Magic{4, "ftypavif"sv, "AVIF"},
    Magic{4, "ftypavis"sv, "AVIF"},
    Magic{4, "ftyphe"sv, "HEIC"},
    Magic{4, "ftypmif1"sv, "HEIC"},
    Magic{4, "ftypmsf1"sv, "HEIC"},
    Magic{0, "\0\0\0\x0cjP  \r\n\x87\n"sv, "JPEG 2000"},
    Magic{0, "\xff\x4f\xff\x51"sv, "JPEG 2000"},
    Magic{0, "\0\0\0\x0cJXL "sv, "JPEG XL"},
    Magic{0, "\xff\x0a"sv, "JPEG XL"},
    Magic{0, "8BPS"sv, "PSD"},
    Magic{0, "qoif"sv, "QOI"},
    Magic{0, "\0\0\1\0"sv, "ICO"},
};

bool has(std::string_view data, std::size_t offset, std::string_view bytes) {
    return data.size() >= offset + bytes.size() && data.compare(offset, bytes.size(), bytes) == 0;
}

bool is_netpbm(std::string_view data) {
    return data.size() > 2 && data[0] == 'P' && data[1] >= '1' && data[1] <= '7' && " \t\r\n#"sv.find(data[2]) != data.npos;
}

}  // namespace

const char* unsupported_format(std::string_view data) {
    for (const Magic& magic : kUnsupported) {
        if (has(data, magic.offset, magic.bytes)) return magic.format;
    }
    return is_netpbm(data) ? "PPM" : nullptr;
}

ImageError damaged(const std::string& name, const std::string& reason) {
    return ImageError(name + ": the image is truncated, damaged or of an unsupported kind (" + reason +
                      "); fetch or save the file again");
}

Pixels decode(const Encoded& file) {
    if (file.plain) {
        if (const char* reason = unusual_content(file.data)) throw damaged(file.name, reason);
    }
    if (has(file.data, 0, "\xff\xd8\xff"sv)) return decode_jpeg(file);
    if (has(file.data, 0, "\x89PNG\r\n\x1a\n"sv)) return decode_png(file);
    if (has(file.data, 0, "RIFF"sv) && has(file.data, 8, "WEBP"sv)) return decode_webp(file);
    if (const char* format = unsupported_format(file.data)) {
        throw ImageError(file.name + ": " + format + " files are not read by the C++ library; convert it to JPEG, PNG or WebP");
    }
    throw ImageError(file.name + ": not an image that the C++ library can read; convert it to JPEG, PNG or WebP");
}

}  // namespace oce::core
