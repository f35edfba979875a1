// A walk over the parts of a file, without decoding: markers of JPEG (ITU-T T.81, annex B), chunks of PNG and of WebP's container.
#include "image/plain_files.hpp"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

namespace oce::core {
namespace {

using namespace std::string_view_literals;

constexpr std::string_view kExif = "Exif\0\0"sv;
constexpr std::size_t kMostText = std::size_t{1} << 20;  // Pillow refuses more than 64 MiB of a PNG's texts

std::size_t byte(std::string_view data, std::size_t at) {
    return static_cast<unsigned char>(data[at]);
}

std::size_t big_endian(std::string_view data, std::size_t at, std::size_t count) {
    std::size_t value = 0;
    for (std::size_t i = 0; i < count; ++i) value = value << 8 | byte(data, at + i);
    return value;
}

/// Whether a marker of Photoshop ends inside the fixed part of a resource, where Pillow's reader stops with an error.
bool photoshop_is_cut(std::string_view segment) {
    std::size_t at = 14;
    while (at <= segment.size() && segment.substr(at, 4) == "8BIM"sv) {
        at += 6;  // the mark and the resource's number
        if (at > segment.size()) return false;
        if (at == segment.size()) return true;
        at += 1 + byte(segment, at);
        at += at & 1;
        if (at + 4 > segment.size()) return false;
        at += 4 + big_endian(segment, at, 4);
        at += at & 1;
    }
    return false;
}

/// Whether a directory of Exif (a TIFF file in a marker) has a resolution of other types than the usual ones, or is cut: Pillow
/// reads the resolution of every JPEG file.
bool exif_is_unusual(std::string_view tiff) {
    constexpr std::size_t kEntry = 12, kXResolution = 0x11a, kResolutionUnit = 0x128, kShort = 3, kRational = 5;
    const bool little = tiff.starts_with("II*\0"sv);
    if (tiff.size() < 8 || (!little && !tiff.starts_with("MM\0*"sv))) return true;
    const auto number = [&](std::size_t at, std::size_t count) {
        std::size_t value = 0;
        for (std::size_t i = 0; i < count; ++i) value = value << 8 | byte(tiff, at + (little ? count - 1 - i : i));
        return value;
    };
    const std::size_t directory = number(4, 4);
    if (directory < 8 || directory + 2 > tiff.size()) return true;
    const std::size_t entries = number(directory, 2);
    if (directory + 2 + entries * kEntry > tiff.size()) return true;
    for (std::size_t at = directory + 2; at < directory + 2 + entries * kEntry; at += kEntry) {
        const std::size_t tag = number(at, 2), type = number(at + 2, 2), count = number(at + 4, 4);
        if (tag == kXResolution && (type != kRational || count != 1)) return true;
        if (tag == kResolutionUnit && (type != kShort || count != 1)) return true;
    }
    return false;
}

bool tables_are_whole(std::string_view tables) {
    while (!tables.empty()) {
        const std::size_t size = byte(tables, 0) < 16 ? 65 : 129;
        if (tables.size() < size) return false;
        tables.remove_prefix(size);
    }
    return true;
}

const char* unusual_segment(std::size_t marker, std::string_view segment) {
    const auto begins = [&](std::string_view name) { return segment.starts_with(name); };
    if (marker == 0xe0 && begins("JFIF"sv) && segment.size() < 7) return "its JFIF marker is cut";
    if (marker == 0xe1 && begins(kExif) && exif_is_unusual(segment.substr(kExif.size()))) return "its Exif marker is unusual";
    if (marker == 0xe2 && begins("MPF\0"sv)) return "it has several pictures";
    if (marker == 0xe2 && begins("ICC_PROFILE\0"sv) && segment.size() < 14) return "its colour profile is cut";
    if (marker == 0xed && begins("Photoshop 3.0\0"sv) && photoshop_is_cut(segment)) return "its Photoshop marker is cut";
    if (marker == 0xee && begins("Adobe"sv) && segment.size() < 12) return "its Adobe marker is cut";
    if (marker == 0xdb && !tables_are_whole(segment)) return "its quantization tables are cut";
    return nullptr;
}

const char* unusual_jpeg(std::string_view data) {
    bool framed = false, exif = false;
    for (std::size_t at = 2; at + 4 <= data.size();) {
        if (byte(data, at) != 0xff) return "it has bytes between its markers";
        const std::size_t marker = byte(data, at + 1), length = big_endian(data, at + 2, 2);
        if (length < 2 || length > data.size() - at - 2) return "a marker has a wrong length";
        const std::string_view segment = data.substr(at + 4, length - 2);
        at += 2 + length;
        if (marker == 0xda) return framed ? nullptr : "it has no frame before its pixels";
        if (marker == 0xc0 || marker == 0xc1 || marker == 0xc2) {
            if (framed || segment.size() < 6 || segment.size() != 6 + 3 * byte(segment, 5)) return "its frame is damaged";
            framed = true;
            continue;
        }
        const bool known =
            marker == 0xc4 || marker == 0xdb || marker == 0xdd || marker == 0xfe || (marker >= 0xe0 && marker <= 0xef);
        if (!known) return "it has an unusual marker";
        if (const char* reason = unusual_segment(marker, segment)) return reason;
        if (marker == 0xe1 && segment.starts_with(kExif) && std::exchange(exif, true)) return "it has several Exif markers";
    }
    return "it ends before its pixels";
}

struct Chunk {
    std::string_view name;
    std::size_t least, most;  // bytes
};

// Without compressed texts, because Pillow refuses those that grow too large, and without animations.
constexpr std::array kChunks = {
    Chunk{"PLTE"sv, 3, 768},
    Chunk{"tRNS"sv, 1, 256},
    Chunk{"gAMA"sv, 4, 4},
    Chunk{"cHRM"sv, 32, 32},
    Chunk{"sRGB"sv, 1, 1},
    Chunk{"pHYs"sv, 9, 9},
    Chunk{"sBIT"sv, 1, 4},
    Chunk{"bKGD"sv, 1, 6},
    Chunk{"tIME"sv, 7, 7},
    Chunk{"hIST"sv, 2, 512},
    Chunk{"eXIf"sv, 0, kMostText},
    Chunk{"tEXt"sv, 0, kMostText},
    // Deflate grows data to at most 1032 times their size, and Pillow refuses profiles of more than 1 MiB.
    Chunk{"iCCP"sv, 3, 1000},
};

bool is_usual(std::string_view name, std::string_view content) {
    const auto* known = std::find_if(kChunks.begin(), kChunks.end(), [&](const Chunk& chunk) { return chunk.name == name; });
    if (known == kChunks.end() || content.size() < known->least || content.size() > known->most) return false;
    if (name != "iCCP"sv) return true;
    const std::size_t end = content.find('\0');
    return end != content.npos && end + 1 < content.size() && content[end + 1] == '\0';
}

bool has_checksum(std::string_view chunk, std::size_t checksum) {
    return crc32(0, reinterpret_cast<const Bytef*>(chunk.data()), static_cast<uInt>(chunk.size())) == checksum;
}

const char* unusual_png(std::string_view data) {
    std::size_t texts = 0;
    bool pixels = false, ended = false;
    for (std::size_t at = 8; at + 12 <= data.size();) {
        const std::size_t length = big_endian(data, at, 4);
        if (length > data.size() - at - 12) return "a chunk has a wrong length";
        const std::string_view name = data.substr(at + 4, 4), content = data.substr(at + 8, length);
        const bool first = at == 8;
        const std::size_t checksum = big_endian(data, at + 8 + length, 4);
        at += 12 + length;
        if (first != (name == "IHDR"sv)) return "its header is not first, or not alone";
        if (name == "IDAT"sv) {  // whose checksum the decoder compares
            if (ended) return "its pixels are in several places";
            pixels = true;
            continue;
        }
        ended = pixels;
        if (!has_checksum(data.substr(at - 8 - length, 4 + length), checksum)) return "a chunk has a wrong checksum";
        if (name == "IEND"sv) return pixels && length == 0 ? nullptr : "its end is damaged";
        if (first) {
            if (length != 13) return "its header is damaged";
            continue;
        }
        if (!is_usual(name, content)) return "it has an unusual chunk";
        texts += length;
        if (texts > kMostText) return "its texts are large";
    }
    return "it has no end";
}

const char* unusual_webp(std::string_view data) {
    constexpr std::size_t kAnimation = 2;
    if (data.size() < 21) return "it ends early";
    const std::string_view first = data.substr(12, 4);
    if (first != "VP8 "sv && first != "VP8L"sv && first != "VP8X"sv) return "it has an unusual chunk";
    return first == "VP8X"sv && (byte(data, 20) & kAnimation) != 0 ? "it has several pictures" : nullptr;
}

}  // namespace

const char* unusual_content(std::string_view data) {
    if (data.starts_with("\xff\xd8\xff"sv)) return unusual_jpeg(data);
    if (data.starts_with("\x89PNG\r\n\x1a\n"sv)) return unusual_png(data);
    if (data.starts_with("RIFF"sv) && data.substr(0, 12).ends_with("WEBP"sv)) return unusual_webp(data);
    return nullptr;  // not read here at all
}

}  // namespace oce::core
