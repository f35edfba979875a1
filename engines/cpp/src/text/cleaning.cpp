// open_clip's cleaning of texts: ftfy.fix_text, html.unescape twice, white space and case.
#include "text/cleaning.hpp"

#include <algorithm>

#include "text/entities.hpp"
#include "text/mojibake.hpp"
#include "text/tables.hpp"
#include "text/unicode.hpp"
#include "text/utf8.hpp"

namespace oce::core {

namespace {

constexpr std::size_t kLongestSegment = 1'000'000;  // ftfy's max_decode_length, in characters

/// Whether the cleaning leaves the character as it is wherever it stands, but for white space, which it collapses in the end.
bool is_plain(char32_t character) {
    return (character >= U' ' && character <= U'~' && character != U'&') || character == U'\t' || character == U'\n' ||
           character == U'\f' || character == U'\r';
}

void uncurl_quotes(std::u32string& text) {
    for (char32_t& character : text) {
        if (character >= U'\u201C' && character <= U'\u201F') character = U'"';
        if ((character >= U'\u2018' && character <= U'\u201B') || character == U'\u02BC') character = U'\'';
    }
}

void fix_line_breaks(std::u32string& text) {
    std::size_t end = 0;
    for (std::size_t at = 0; at < text.size(); ++at) {
        const char32_t character = text[at];
        if (character == U'\r' && at + 1 < text.size() && text[at + 1] == U'\n') continue;
        const bool breaks = character == U'\r' || character == U'\u2028' || character == U'\u2029' || character == 0x85;
        text[end++] = breaks ? U'\n' : character;
    }
    text.resize(end);
}

/// Bytes that were no UTF-8 are the only surrogates here, and those are never first halves of pairs.
void replace_surrogates(std::u32string& text) {
    for (char32_t& character : text) {
        if (character >= 0xD800 && character < 0xE000) character = U'\uFFFD';
    }
}

/// Length of the terminal's escape sequence at `at`, or 0.
std::size_t length_of_escape(std::u32string_view text, std::size_t at) {
    if (text[at] != 0x1B || at + 1 >= text.size() || text[at + 1] != U'[') return 0;
    std::size_t end = at + 2;
    while (end < text.size() && (text[end] == U';' || has(text[end], tables::kDigit))) ++end;
    const bool letter = end < text.size() && ((text[end] >= U'a' && text[end] <= U'z') || (text[end] >= U'A' && text[end] <= U'Z'));
    return letter ? end + 1 - at : 0;
}

void remove_terminal_escapes(std::u32string& text) {
    if (text.find(0x1B) == std::u32string::npos) return;
    std::size_t end = 0;
    for (std::size_t at = 0; at < text.size();) {
        if (const std::size_t length = length_of_escape(text, at)) {
            at += length;
        } else {
            text[end++] = text[at++];
        }
    }
    text.resize(end);
}

/// `ftfy.fix_and_explain`: all steps, until none changes anything.
void fix_segment(std::u32string& text, bool unescape_html) {
    std::u32string before;
    do {
        before = text;
        if (unescape_html) unescape_unambiguous(text);
        fix_encoding(text);
        fix_c1_controls(text);
        translate(text, tables::kTranslated, tables::kIsTranslated);
        uncurl_quotes(text);
        fix_line_breaks(text);
        replace_surrogates(text);
        remove_terminal_escapes(text);
        std::erase_if(text, [](char32_t character) { return has(character, tables::kControl); });
        normalize_nfc(text);
    } while (text != before);
}

/// `ftfy.fix_text`, which fixes each line by itself. The first "<" ends the resolving of entities also in all later lines.
std::u32string fix_text(std::u32string_view text) {
    std::u32string result, segment;
    result.reserve(text.size());
    bool unescape_html = true;
    for (std::size_t at = 0, end = 0; at < text.size(); at = end) {
        const std::size_t line = text.find(U'\n', at);
        end = std::min(line == std::u32string_view::npos ? text.size() : line + 1, at + kLongestSegment);
        segment = text.substr(at, end - at);
        if (segment.find(U'<') != std::u32string::npos) unescape_html = false;
        if (std::ranges::all_of(segment, is_plain)) {
            result += segment;
            continue;
        }
        fix_segment(segment, unescape_html);
        result += segment;
    }
    return result;
}

/// Underscores become spaces, and the other ASCII punctuation goes.
void drop_punctuation(std::u32string& text) {
    std::ranges::replace(text, U'_', U' ');
    std::erase_if(text, [](char32_t character) {
        const bool alphanumeric = (character >= U'0' && character <= U'9') || (character >= U'A' && character <= U'Z') ||
                                  (character >= U'a' && character <= U'z');
        return character > U' ' && character <= U'~' && !alphanumeric;
    });
}

}  // namespace

std::u32string clean(std::string_view bytes, Clean kind) {
    std::u32string text;
    const auto plain = [](char byte) { return is_plain(static_cast<unsigned char>(byte)); };
    if (std::ranges::all_of(bytes, plain)) {
        text.assign(bytes.begin(), bytes.end());
    } else {
        text = fix_text(decode_utf8_escaping(bytes));
        unescape(text);
        unescape(text);
    }
    if (kind == Clean::canonicalize) drop_punctuation(text);
    // Without runs of white space first, or lower would copy them; it looks past neither a space nor a line feed.
    collapse_spaces(text);
    if (kind != Clean::whitespace) lower(text);
    return text;
}

}  // namespace oce::core
