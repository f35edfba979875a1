// ftfy's single-byte encodings, and its repairs of bytes that are almost UTF-8.
#include "text/encodings.hpp"

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "text/tables.hpp"
#include "text/unicode.hpp"

namespace oce::core {

namespace {

using tables::ByteClass;
using tables::ByteSequence;

constexpr char32_t kSubstitute = 0x1A;  // the one ASCII character that some of the encodings do not have

const tables::Encoded& encoded(char32_t character) {
    return *std::ranges::lower_bound(tables::kEncoded, character, {}, &tables::Encoded::character);
}

/// The alternatives of one of ftfy's regular expressions for bytes.
struct BytePattern {
    std::span<const ByteClass> classes;
    std::span<const ByteSequence> sequences;

    [[nodiscard]] bool is_in(std::uint8_t byte, std::uint8_t number) const {
        return (classes[number].bits[byte / 32] >> (byte % 32) & 1) != 0;
    }

    /// Length of the first alternative that is found there, or 0.
    [[nodiscard]] std::size_t match(std::string_view bytes, std::size_t at) const {
        for (const ByteSequence& sequence : sequences) {
            std::size_t length = 0;
            bool fits = true;
            for (const std::uint8_t number : sequence.classes) {
                if (number == 0) break;
                fits = at + length < bytes.size() && is_in(static_cast<std::uint8_t>(bytes[at + length]), number);
                if (!fits) break;
                ++length;
            }
            if (fits) return length;
        }
        return 0;
    }
};

/// The bytes, in which `replace` has appended something else for each match.
template <typename Replace>
std::string substituted(const BytePattern& pattern, std::string_view bytes, Replace replace) {
    std::string result;
    result.reserve(bytes.size());
    for (std::size_t at = 0; at < bytes.size();) {
        const std::size_t length = pattern.match(bytes, at);
        if (length == 0) {
            result += bytes[at++];
        } else {
            replace(result, bytes.substr(at, length));
            at += length;
        }
    }
    return result;
}

/// A lone "Ã " was the French word à and keeps its space, unless Portuguese words follow (ftfy's A_GRAVE_WORD_RE).
std::string with_word_a_grave(std::string_view bytes) {
    constexpr std::string_view kFound = "\xC3 ";
    std::string result;
    result.reserve(bytes.size());
    std::size_t done = 0;
    for (std::size_t at = bytes.find(kFound); at != std::string_view::npos; at = bytes.find(kFound, done)) {
        const std::string_view rest = bytes.substr(at + kFound.size());
        const bool other = std::ranges::any_of(std::initializer_list<std::string_view>{" ", "quele", "quela", "quilo", "s "},
                                               [&](std::string_view start) { return rest.starts_with(start); });
        result += bytes.substr(done, at - done);
        result += other ? kFound : "\xC3\xA0 ";
        done = at + kFound.size();
    }
    result += bytes.substr(done);
    return result;
}

}  // namespace

unsigned possible_encodings(std::u32string_view text) {
    unsigned possible = kAllEncodings;
    for (const char32_t character : text) {
        if (character < 0x80 && character != kSubstitute) continue;
        if (!has(character, tables::kIsEncodable)) return 0;
        possible &= encoded(character).encodings;
        if (possible == 0) break;
    }
    return possible;
}

std::string encode(std::u32string_view text, unsigned column) {
    std::string bytes;
    bytes.reserve(text.size());
    for (const char32_t character : text) {
        const bool same = character < 0x80 && character != kSubstitute;
        bytes += static_cast<char>(same ? static_cast<std::uint8_t>(character) : encoded(character).bytes[column]);
    }
    return bytes;
}

void restore_byte_a0(std::string& bytes) {
    const BytePattern altered{tables::kAlteredClasses, tables::kAlteredSequences};
    std::size_t at = 0;
    while (at < bytes.size() && altered.match(bytes, at) == 0) ++at;
    if (at == bytes.size()) return;
    bytes = substituted(altered, with_word_a_grave(bytes), [](std::string& result, std::string_view match) {
        for (const char byte : match) result += byte == ' ' ? '\xA0' : byte;
    });
}

void replace_lossy_sequences(std::string& bytes) {
    const BytePattern lossy{tables::kLossyClasses, tables::kLossySequences};
    bytes = substituted(lossy, bytes, [](std::string& result, std::string_view) { result += "\xEF\xBF\xBD"; });
}

}  // namespace oce::core
