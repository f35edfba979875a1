// UTF-8 and ftfy's variants of it.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace oce::core {

/// The text, in which each byte that is no part of UTF-8 is U+DC00 plus the byte, as in Python's `surrogateescape`.
std::u32string decode_utf8_escaping(std::string_view bytes);

/// The text, or nothing if the bytes are not UTF-8.
std::optional<std::u32string> decode_utf8(std::string_view bytes);

/// The same, with ftfy's codec "utf-8-variants": surrogate pairs may be encoded one by one, and zero as C0 80.
std::optional<std::u32string> decode_utf8_variants(std::string_view bytes);

/// Append a character that is not a surrogate.
void append_utf8(std::string& bytes, char32_t character);

}  // namespace oce::core
