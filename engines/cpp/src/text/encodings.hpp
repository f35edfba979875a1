// ftfy's single-byte encodings, and its repairs of bytes that are almost UTF-8.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace oce::core {

inline constexpr unsigned kLatin1 = 1 << 0, kMacRoman = 1 << 8;  // bits of the columns of tables::kEncoded
inline constexpr unsigned kSloppy = 0b0001111110;                // the sloppy-windows-… encodings
inline constexpr unsigned kAllEncodings = (1 << 10) - 1;

/// The encodings that have every character of the text, as a set of bits.
unsigned possible_encodings(std::u32string_view text);

/// The text in one of its possible encodings; `column` is the number of the encoding's bit.
std::string encode(std::u32string_view text, unsigned column);

/// Put byte A0 in the place of spaces that are probably left from it; the same bytes if there are none.
void restore_byte_a0(std::string& bytes);

/// Replace sequences in which a byte was lost by U+FFFD.
void replace_lossy_sequences(std::string& bytes);

}  // namespace oce::core
