// Texts and numbers in messages, written as Python writes them, so that both readers of a bundle answer in the same words.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace oce::core {

/// Whether the bytes are UTF-8 without surrogates.
bool is_utf8(std::string_view text);
/// Number of characters (code points) of UTF-8.
std::size_t count_characters(std::string_view text);
/// The first characters of a text in UTF-8, at most `most`.
std::string_view first_characters(std::string_view text, std::size_t most);
/// The last characters of a text in UTF-8, at most `most`.
std::string_view last_characters(std::string_view text, std::size_t most);
/// A text cut to `most` characters, with an ellipsis in the place of the rest.
std::string shortened(std::string_view text, std::size_t most);
/// The same bytes, with U+FFFD in the place of each that is no part of UTF-8.
std::string repaired(std::string_view text);
/// Python's repr of a text in UTF-8.
std::string python_repr(std::string_view text);
/// Python's repr of a finite number.
std::string python_repr(double number);

}  // namespace oce::core
