// HTML entities and character references.
#include "text/entities.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "text/tables.hpp"
#include "text/unicode.hpp"

namespace oce::core {

namespace {

constexpr std::size_t kLongestName = 32, kLongestUnambiguous = 24;  // what Python's and ftfy's regular expressions allow
constexpr std::size_t kLongestBare = 6;                             // of the names that need no semicolon

/// The text of the entity of that name (without the ampersand, with its semicolon), or nothing.
std::optional<std::u32string_view> find_entity(std::span<const tables::Entity> entities, const char* names,
                                               std::u32string_view name) {
    const auto precedes = [&](const tables::Entity& entity, std::u32string_view wanted) {
        const std::string_view own(names + entity.name, entity.length);
        return std::lexicographical_compare(own.begin(), own.end(), wanted.begin(), wanted.end(),
                                            [](auto a, auto b) { return static_cast<char32_t>(a) < static_cast<char32_t>(b); });
    };
    const auto found = std::lower_bound(entities.begin(), entities.end(), name, precedes);
    if (found == entities.end() || found->length != name.size()) return std::nullopt;
    const std::string_view own(names + found->name, found->length);
    const bool equal =
        std::equal(own.begin(), own.end(), name.begin(), [](char a, char32_t b) { return static_cast<char32_t>(a) == b; });
    return equal ? std::optional(text_of(found->text)) : std::nullopt;
}

std::optional<std::u32string_view> standard_entity(std::u32string_view name) {
    return find_entity(tables::kEntities, tables::kEntitiesNames, name);
}

int digit_of(char32_t character) {
    if (character >= U'0' && character <= U'9') return static_cast<int>(character - U'0');
    if (character >= U'a' && character <= U'f') return static_cast<int>(character - U'a' + 10);
    if (character >= U'A' && character <= U'F') return static_cast<int>(character - U'A' + 10);
    return 16;
}

struct Number {
    std::uint32_t value;  // at most 0x110000, which stands for all that are too high
    std::size_t end;      // of its digits
};

/// The number behind the '#' at `at`, decimal or (with an x) hexadecimal.
std::optional<Number> read_number(std::u32string_view text, std::size_t at) {
    int base = 10;
    if (++at < text.size() && (text[at] == U'x' || text[at] == U'X')) {
        base = 16;
        ++at;
    }
    const std::size_t start = at;
    std::uint32_t value = 0;
    for (; at < text.size() && digit_of(text[at]) < base; ++at) {
        value = std::min<std::uint32_t>(value * static_cast<std::uint32_t>(base) + static_cast<std::uint32_t>(digit_of(text[at])),
                                        0x110000);
    }
    if (at == start) return std::nullopt;
    return Number{value, at};
}

/// Append the character that a number stands for by the rules of HTML 5.
void append_reference(std::u32string& result, std::uint32_t number) {
    const auto replaced = std::ranges::lower_bound(tables::kReplacedReferences, number, {}, &tables::Reference::number);
    if (replaced != tables::kReplacedReferences.end() && replaced->number == number) {
        result += replaced->character;
    } else if (number > 0x10FFFF || (number >= 0xD800 && number <= 0xDFFF)) {
        result += U'\uFFFD';
    } else if (!std::ranges::binary_search(tables::kDroppedReferences, static_cast<char32_t>(number))) {
        result += static_cast<char32_t>(number);
    }
}

bool ends_name(char32_t character) {
    return std::u32string_view(U"\t\n\f <&#;").find(character) != std::u32string_view::npos;
}

/// Append what the reference at the ampersand `at` stands for and return where it ends; the ampersand itself if it is none.
std::size_t resolve(std::u32string_view text, std::size_t at, std::u32string& result) {
    if (at + 1 < text.size() && text[at + 1] == U'#') {
        if (const auto number = read_number(text, at + 1)) {
            append_reference(result, number->value);
            return number->end + (number->end < text.size() && text[number->end] == U';' ? 1 : 0);
        }
    }
    const std::size_t start = at + 1;
    std::size_t end = start;
    while (end < text.size() && end - start < kLongestName && !ends_name(text[end])) ++end;
    if (end > start && end < text.size() && text[end] == U';') ++end;
    const std::u32string_view name = text.substr(start, end - start);
    if (const auto whole = standard_entity(name)) {
        result += *whole;
        return end;
    }
    if (name.size() > 2) {
        for (std::size_t length = std::min(name.size() - 1, kLongestBare); length > 1; --length) {
            if (const auto part = standard_entity(name.substr(0, length))) {
                result += *part;
                result += name.substr(length);
                return end;
            }
        }
    }
    result += text.substr(at, end - at);
    return end;
}

bool is_alphanumeric(char32_t c) {
    return (c >= U'0' && c <= U'9') || (c >= U'A' && c <= U'Z') || (c >= U'a' && c <= U'z');
}

/// The same by ftfy's rules.
std::size_t resolve_unambiguous(std::u32string_view text, std::size_t at, std::u32string& result) {
    const bool numeric = at + 1 < text.size() && text[at + 1] == U'#';
    const std::size_t start = at + 1 + (numeric ? 1 : 0);
    std::size_t end = start;
    while (end < text.size() && end - start < kLongestUnambiguous && is_alphanumeric(text[end])) ++end;
    if (end == start || end == text.size() || text[end] != U';') {
        result += U'&';
        return at + 1;
    }
    const std::u32string_view name = text.substr(at + 1, end - at);
    if (numeric) {
        const auto number = read_number(text, at + 1);
        if (number && number->end == end && number->value != U';') {
            append_reference(result, number->value);
            return end + 1;
        }
    } else {
        auto found = standard_entity(name);
        if (!found) found = find_entity(tables::kCapitalEntities, tables::kCapitalEntitiesNames, name);
        if (found) {
            result += *found;
            return end + 1;
        }
    }
    result += text.substr(at, end + 1 - at);
    return end + 1;
}

template <typename Resolve>
void substitute(std::u32string& text, Resolve resolve_one) {
    std::size_t at = text.find(U'&');
    if (at == std::u32string::npos) return;
    std::u32string result;
    result.reserve(text.size());
    std::size_t done = 0;
    for (; at != std::u32string::npos; at = text.find(U'&', done)) {
        result.append(text, done, at - done);
        done = resolve_one(text, at, result);
    }
    result.append(text, done);
    text = std::move(result);
}

}  // namespace

void unescape(std::u32string& text) {
    substitute(text, resolve);
}

void unescape_unambiguous(std::u32string& text) {
    substitute(text, resolve_unambiguous);
}

}  // namespace oce::core
