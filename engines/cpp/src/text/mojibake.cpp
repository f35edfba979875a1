// ftfy's repair of texts that were decoded in the wrong encoding.
#include "text/mojibake.hpp"

#include <algorithm>
#include <optional>
#include <string_view>

#include "text/encodings.hpp"
#include "text/tables.hpp"
#include "text/unicode.hpp"
#include "text/utf8.hpp"

namespace oce::core {

namespace {

bool is_ascii(std::u32string_view text) {
    return std::ranges::all_of(text, [](char32_t character) { return character < 0x80; });
}

bool is_c1(char32_t character) {
    return character >= 0x80 && character < 0xA0;
}

/// `ftfy.badness.is_bad`: whether the text holds a sequence of characters that seldom stands in a good one.
bool is_bad(std::u32string_view text) {
    std::size_t state = 0;
    for (const char32_t character : text) {
        state = tables::kBadnessSteps[state * tables::kBadnessGroups + record_of(character).group];
        if (state == tables::kBadnessFound) return true;
    }
    return false;
}

/// The text encoded in one of the encodings and decoded as UTF-8, if that is what it is.
std::optional<std::u32string> decoded_again(std::u32string_view text, unsigned column) {
    const unsigned encoding = 1u << column;
    std::string bytes = encode(text, column);
    if (encoding != kMacRoman) restore_byte_a0(bytes);
    if ((encoding & kSloppy) != 0) replace_lossy_sequences(bytes);
    return bytes.find_first_of("\xED\xC0") == std::string::npos ? decode_utf8(bytes) : decode_utf8_variants(bytes);
}

/// Length of the sequences at `at` that look like UTF-8 which was decoded as single bytes.
std::size_t length_of_detected(std::u32string_view text, std::size_t at) {
    if (at > 0 && has(text[at - 1], tables::kContinuationStrict)) return 0;
    const auto continues = [&](std::size_t lead, std::size_t count) {
        if (text.size() - lead <= count) return false;
        const std::u32string_view rest = text.substr(lead + 1, count);
        return std::ranges::all_of(rest, [](char32_t character) { return has(character, tables::kContinuation); });
    };
    std::size_t end = at;
    while (end < text.size()) {
        const unsigned properties = record_of(text[end]).properties;
        if ((properties & tables::kFirstOf2) != 0 && continues(end, 1)) {
            end += 2;
        } else if ((properties & tables::kFirstOf3) != 0 && continues(end, 2)) {
            end += 3;
        } else if ((properties & tables::kFirstOf4) != 0 && continues(end, 3)) {
            end += 4;
        } else {
            break;
        }
    }
    return end - at;
}

std::u32string with_parts_fixed(std::u32string_view text) {
    std::u32string result;
    result.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t length = length_of_detected(text, at);
        if (length == 0) {
            result += text[at++];
            continue;
        }
        std::u32string part(text.substr(at, length));
        if (length < text.size() && is_bad(part)) fix_encoding(part);  // a shorter text each time, so this ends
        result += part;
        at += length;
    }
    return result;
}

/// Latin-1 that was meant to be Windows-1252; nothing where that has no character for a byte.
std::optional<std::u32string> as_windows_1252(std::u32string text) {
    for (char32_t& character : text) {
        if (!is_c1(character)) continue;
        character = tables::kStrictC1[character - 0x80];
        if (character == U'\uFFFD') return std::nullopt;
    }
    return text;
}

/// The text after one step of repair, which may be the same text.
std::u32string fixed_once(std::u32string_view text) {
    const unsigned possible = possible_encodings(text);
    for (unsigned column = 0; column < 10; ++column) {
        if ((possible >> column & 1) == 0) continue;
        if (auto fixed = decoded_again(text, column)) return std::move(*fixed);
    }
    std::u32string parts = with_parts_fixed(text);
    if (parts != text) return parts;
    if ((possible & kLatin1) != 0) {
        const auto fixed = as_windows_1252(std::u32string(text));
        if (fixed && *fixed != text) return *fixed;
    }
    fix_c1_controls(parts);
    return parts;
}

}  // namespace

void fix_encoding(std::u32string& text) {
    while (!is_ascii(text) && is_bad(text)) {
        std::u32string fixed = fixed_once(text);
        if (fixed == text) return;
        text = std::move(fixed);
    }
}

void fix_c1_controls(std::u32string& text) {
    for (char32_t& character : text) {
        if (is_c1(character)) character = tables::kSloppyC1[character - 0x80];
    }
}

}  // namespace oce::core
