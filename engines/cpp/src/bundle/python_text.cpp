// Python's repr of texts and numbers, and the counting of characters in UTF-8.
#include "bundle/python_text.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <cstdio>

namespace oce::core {
namespace {

struct Character {
    char32_t code = 0;
    std::size_t bytes = 0;  // 0: not UTF-8
};

/// The character at the beginning of a text that is not empty.
Character first_character(std::string_view text) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned lead = byte(0);
    if (lead < 0x80) return {lead, 1};
    const std::size_t bytes = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    if (lead < 0xC2 || lead > 0xF4 || text.size() < bytes) return {};
    char32_t code = lead & (0x7FU >> bytes);
    for (std::size_t i = 1; i < bytes; ++i) {
        if ((byte(i) & 0xC0) != 0x80) return {};
        code = code << 6 | (byte(i) & 0x3F);
    }
    const bool overlong = (bytes == 3 && code < 0x800) || (bytes == 4 && code < 0x10000);
    if (overlong || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) return {};
    return {code, bytes};
}

struct Span {
    char32_t first, last;
};

// Characters that Python's repr escapes: controls, formats, separators, private use and the frequent ranges without characters.
constexpr std::array kEscaped = std::to_array<Span>({
    {0x00, 0x1F},
    {0x7F, 0xA0},
    {0xAD, 0xAD},
    {0x0600, 0x0605},
    {0x061C, 0x061C},
    {0x06DD, 0x06DD},
    {0x1680, 0x1680},
    {0x180E, 0x180E},
    {0x2000, 0x200F},
    {0x2028, 0x202F},
    {0x205F, 0x206F},
    {0x3000, 0x3000},
    {0xE000, 0xF8FF},
    {0xFEFF, 0xFEFF},
    {0xFFF0, 0xFFFB},
    {0xFFFE, 0xFFFF},
    {0xE0000, 0xE00FF},
    {0xE01F0, 0x10FFFF},
});

bool is_escaped(char32_t code) {
    return std::any_of(kEscaped.begin(), kEscaped.end(), [&](Span span) { return span.first <= code && code <= span.last; });
}

std::string escape(char32_t code) {
    std::array<char, 12> text{};
    const char* const pattern = code <= 0xFF ? "\\x%02x" : code <= 0xFFFF ? "\\u%04x" : "\\U%08x";
    std::snprintf(text.data(), text.size(), pattern, static_cast<unsigned>(code));
    return text.data();
}

bool continues(char byte) {
    return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
}

}  // namespace

bool is_utf8(std::string_view text) {
    while (!text.empty()) {
        const std::size_t bytes = first_character(text).bytes;
        if (bytes == 0) return false;
        text.remove_prefix(bytes);
    }
    return true;
}

std::size_t count_characters(std::string_view text) {
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char byte) { return !continues(byte); }));
}

std::string_view first_characters(std::string_view text, std::size_t most) {
    std::size_t end = 0;
    for (; end < text.size() && (most > 0 || continues(text[end])); ++end) {
        if (!continues(text[end])) --most;
    }
    return text.substr(0, end);
}

std::string_view last_characters(std::string_view text, std::size_t most) {
    std::size_t begin = text.size();
    while (begin > 0 && most > 0) {
        if (!continues(text[--begin])) --most;
    }
    return text.substr(begin);
}

std::string shortened(std::string_view text, std::size_t most) {
    const std::string_view kept = first_characters(text, most);
    return std::string(kept) + (kept.size() < text.size() ? "…" : "");
}

std::string repaired(std::string_view text) {
    std::string whole;
    while (!text.empty()) {
        const std::size_t bytes = first_character(text).bytes;
        whole += bytes == 0 ? std::string_view("\uFFFD") : text.substr(0, bytes);
        text.remove_prefix(std::max<std::size_t>(bytes, 1));
    }
    return whole;
}

std::string python_repr(std::string_view text) {
    const bool single = text.find('\'') == text.npos || text.find('"') != text.npos;
    const char quote = single ? '\'' : '"';
    std::string shown(1, quote);
    while (!text.empty()) {
        const Character character = first_character(text);
        const std::size_t bytes = std::max<std::size_t>(character.bytes, 1);
        const char byte = text.front();
        if (byte == quote || byte == '\\') {
            shown += {'\\', byte};
        } else if (byte == '\n' || byte == '\r' || byte == '\t') {
            shown += {'\\', byte == '\n' ? 'n' : byte == '\r' ? 'r' : 't'};
        } else if (character.bytes == 0 || is_escaped(character.code)) {
            shown += escape(character.bytes == 0 ? static_cast<unsigned char>(byte) : character.code);
        } else {
            shown += text.substr(0, bytes);
        }
        text.remove_prefix(bytes);
    }
    return shown + quote;
}

std::string python_repr(double number) {
    std::array<char, 64> text{};
    const auto shown = [&](std::chars_format format) {
        return std::string(text.data(), std::to_chars(text.data(), text.data() + text.size(), number, format).ptr);
    };
    std::string scientific = shown(std::chars_format::scientific);
    const std::size_t letter = scientific.find('e');
    const int exponent = letter == scientific.npos ? 0 : std::stoi(scientific.substr(letter + 1));
    if (exponent < -4 || exponent >= 16) return scientific;
    const std::string plain = shown(std::chars_format::fixed);
    return plain.find('.') == plain.npos ? plain + ".0" : plain;
}

}  // namespace oce::core
