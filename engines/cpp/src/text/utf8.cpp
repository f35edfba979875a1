// UTF-8 and ftfy's variants of it.
#include "text/utf8.hpp"

#include <cstdint>

namespace oce::core {

namespace {

std::uint8_t byte_at(std::string_view bytes, std::size_t at) {
    return static_cast<std::uint8_t>(bytes[at]);
}

bool within(std::string_view bytes, std::size_t at, int first, int last) {
    return at < bytes.size() && byte_at(bytes, at) >= first && byte_at(bytes, at) <= last;
}

/// Read one character at `at` and step behind it; false if the bytes there are none.
bool read_character(std::string_view bytes, std::size_t& at, char32_t& character) {
    const std::uint8_t lead = byte_at(bytes, at);
    if (lead < 0x80) {
        character = lead;
        ++at;
        return true;
    }
    if (lead < 0xC2 || lead > 0xF4) return false;
    const std::size_t more = lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
    // The second byte's range leaves out surrogates, numbers past the last, and what a shorter sequence expresses.
    const int first = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80, last = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (!within(bytes, at + 1, first, last)) return false;
    character = lead & (0x3F >> more);
    for (std::size_t k = 1; k <= more; ++k) {
        if (!within(bytes, at + k, 0x80, 0xBF)) return false;
        character = character << 6 | (byte_at(bytes, at + k) & 0x3F);
    }
    at += more + 1;
    return true;
}

bool append_decoded(std::string_view bytes, std::u32string& text) {
    for (std::size_t at = 0; at < bytes.size();) {
        char32_t character = 0;
        if (!read_character(bytes, at, character)) return false;
        text += character;
    }
    return true;
}

/// Whether `$` of Python's `re` matches there.
bool at_end(std::string_view bytes, std::size_t at) {
    return at == bytes.size() || (at + 1 == bytes.size() && bytes[at] == '\n');
}

struct ByteRange {
    int first, last;
};

/// Whether the bytes after the one at `at` are in the ranges; as in ftfy's expressions, an end may stand for each that is left.
template <std::size_t N>
bool follow(std::string_view bytes, std::size_t at, const ByteRange (&ranges)[N]) {
    for (const ByteRange& range : ranges) {
        if (!within(bytes, ++at, range.first, range.last)) return at_end(bytes, at);
    }
    return true;
}

constexpr ByteRange kPair[] = {{0xA0, 0xAF}, {0x80, 0xBF}, {0xED, 0xED}, {0xB0, 0xBF}, {0x80, 0xBF}};
constexpr ByteRange kLoneSurrogate[] = {{0xA0, 0xBF}, {0x80, 0xBF}};

bool is_zero(std::string_view bytes, std::size_t at) {
    return byte_at(bytes, at) == 0xC0 && (within(bytes, at + 1, 0x80, 0x80) || at_end(bytes, at + 1));
}

bool is_surrogate(std::string_view bytes, std::size_t at) {
    return byte_at(bytes, at) == 0xED && (follow(bytes, at, kPair) || follow(bytes, at, kLoneSurrogate));
}

}  // namespace

std::u32string decode_utf8_escaping(std::string_view bytes) {
    std::u32string text;
    text.reserve(bytes.size());
    for (std::size_t at = 0; at < bytes.size();) {
        char32_t character = 0;
        if (!read_character(bytes, at, character)) character = 0xDC00 + byte_at(bytes, at++);
        text += character;
    }
    return text;
}

std::optional<std::u32string> decode_utf8(std::string_view bytes) {
    std::u32string text;
    if (!append_decoded(bytes, text)) return std::nullopt;
    return text;
}

std::optional<std::u32string> decode_utf8_variants(std::string_view bytes) {
    std::u32string text;
    std::size_t done = 0;
    for (std::size_t at = 0; at < bytes.size();) {
        const bool zero = is_zero(bytes, at);
        if (!zero && !is_surrogate(bytes, at)) {
            ++at;
            continue;
        }
        if (!append_decoded(bytes.substr(done, at - done), text)) return std::nullopt;
        const std::size_t left = bytes.size() - at;
        if (zero && left > 1) {
            text += U'\0';
            at += 2;  // also where the second byte is a line feed, which ftfy's codec swallows
        } else if (!zero && left >= 6 && follow(bytes, at, kPair)) {
            text += static_cast<char32_t>(0x10000 + ((byte_at(bytes, at + 1) & 0x0Fu) << 16) +
                                          ((byte_at(bytes, at + 2) & 0x3Fu) << 10) + ((byte_at(bytes, at + 4) & 0x0Fu) << 6) +
                                          (byte_at(bytes, at + 5) & 0x3Fu));
            at += 6;
        } else {
            return std::nullopt;  // half a pair or a cut sequence, which Python's codec refuses
        }
        done = at;
    }
    if (!append_decoded(bytes.substr(done), text)) return std::nullopt;
    return text;
}

void append_utf8(std::string& bytes, char32_t character) {
    const auto append = [&](char32_t byte) { bytes += static_cast<char>(static_cast<std::uint8_t>(byte)); };
    if (character < 0x80) {
        append(character);
    } else if (character < 0x800) {
        append(0xC0 | character >> 6);
        append(0x80 | (character & 0x3F));
    } else if (character < 0x10000) {
        append(0xE0 | character >> 12);
        append(0x80 | (character >> 6 & 0x3F));
        append(0x80 | (character & 0x3F));
    } else {
        append(0xF0 | character >> 18);
        append(0x80 | (character >> 12 & 0x3F));
        append(0x80 | (character >> 6 & 0x3F));
        append(0x80 | (character & 0x3F));
    }
}

}  // namespace oce::core
