// Properties of characters, and Python's operations on texts that need no more than them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "text/tables.hpp"

namespace oce::core {

/// A character's properties; numbers past the last code point have those of no character.
inline const tables::Record& record_of(char32_t character) {
    constexpr int kPageBits = 6;  // as in make_tables.py
    constexpr char32_t kMask = (1 << kPageBits) - 1;
    if (character > 0x10FFFF) character = 0x10FFFF;
    const std::uint32_t middle = tables::kTopPages[character >> (2 * kPageBits)];
    const std::uint32_t page = tables::kMiddlePages[middle << kPageBits | (character >> kPageBits & kMask)];
    return tables::kRecords[tables::kPages[page << kPageBits | (character & kMask)]];
}

/// Whether a character has one of the properties.
inline bool has(char32_t character, unsigned properties) {
    return (record_of(character).properties & properties) != 0;
}

/// A text of the tables.
inline std::u32string_view text_of(tables::Text text) {
    return {tables::kTexts + text.offset, text.length};
}

/// The text that replaces a character that is in the table.
std::u32string_view mapped(std::span<const tables::Mapping> table, char32_t character);

/// Replace every character that has the property by its text in the table.
void translate(std::u32string& text, std::span<const tables::Mapping> table, tables::Property property);

/// `str.lower`
void lower(std::u32string& text);

/// `" ".join(str.split())`
void collapse_spaces(std::u32string& text);

/// `unicodedata.normalize("NFC", text)`
void normalize_nfc(std::u32string& text);

}  // namespace oce::core
