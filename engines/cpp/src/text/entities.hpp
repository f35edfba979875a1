// HTML entities and character references.
#pragma once

#include <string>

namespace oce::core {

/// `html.unescape`. A number of any length is read; Python refuses those of more than 4300 digits.
void unescape(std::u32string& text);

/// `ftfy.fixes.unescape_html`: only what ends in a semicolon, and names in capitals, too.
void unescape_unambiguous(std::u32string& text);

}  // namespace oce::core
