// Lower case, white space and replacements of single characters, as Python's str has them.
#include "text/unicode.hpp"

#include <algorithm>

namespace oce::core {

namespace {

constexpr char32_t kCapitalSigma = U'\u03A3', kSigma = U'\u03C3', kFinalSigma = U'\u03C2';

/// Whether a capital sigma ends a word: the next cased character before it exists, the next one behind it does not, where
/// characters that have no say in it are passed over.
bool ends_word(std::u32string_view text, std::size_t at) {
    std::size_t before = at;
    while (before > 0 && has(text[before - 1], tables::kCaseIgnorable)) --before;
    if (before == 0 || !has(text[before - 1], tables::kCased)) return false;
    std::size_t behind = at + 1;
    while (behind < text.size() && has(text[behind], tables::kCaseIgnorable)) ++behind;
    return behind == text.size() || !has(text[behind], tables::kCased);
}

}  // namespace

std::u32string_view mapped(std::span<const tables::Mapping> table, char32_t character) {
    return text_of(std::ranges::lower_bound(table, character, {}, &tables::Mapping::from)->to);
}

void translate(std::u32string& text, std::span<const tables::Mapping> table, tables::Property property) {
    const auto concerned = [&](char32_t character) { return has(character, property); };
    const auto first = std::ranges::find_if(text, concerned);
    if (first == text.end()) return;
    std::u32string result(text.begin(), first);
    for (auto at = first; at != text.end(); ++at) {
        if (concerned(*at)) {
            result += mapped(table, *at);
        } else {
            result += *at;
        }
    }
    text = std::move(result);
}

void lower(std::u32string& text) {
    std::u32string result;
    result.reserve(text.size());
    for (std::size_t at = 0; at < text.size(); ++at) {
        const char32_t character = text[at];
        if (character < 0x80) {
            result += character >= U'A' && character <= U'Z' ? character + 32 : character;
        } else if (character == kCapitalSigma) {
            result += ends_word(text, at) ? kFinalSigma : kSigma;
        } else if (has(character, tables::kIsLowered)) {
            result += mapped(tables::kLowered, character);
        } else {
            result += character;
        }
    }
    text = std::move(result);
}

void collapse_spaces(std::u32string& text) {
    std::size_t end = 0;
    bool gap = false;
    for (const char32_t character : text) {
        if (has(character, tables::kSpace)) {
            gap = end > 0;
            continue;
        }
        if (gap) text[end++] = U' ';
        gap = false;
        text[end++] = character;
    }
    text.resize(end);
}

}  // namespace oce::core
