// The ranges of the manifest's numbers and texts (engines/schema/ranges.py); schema_table.cpp gives them to fields.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>

#include "bundle/schema.hpp"

namespace oce::core::ranges {

// ---- ranges of numbers ----

inline constexpr NumberRange kVersions{1, 2147483647, "1 to 2,147,483,647"};
inline constexpr NumberRange kIds{0, 2147483647, "0 to 2,147,483,647"};
inline constexpr NumberRange kVocabulary{1, 2147483647, "1 to 2,147,483,647"};
inline constexpr NumberRange kCounts{0, 9007199254740992, "0 to 9,007,199,254,740,992"};
inline constexpr NumberRange kSizes{1, 65536, "1 to 65,536"};
inline constexpr NumberRange kLengths{1, 32768, "1 to 32,768"};
inline constexpr NumberRange kExtraLengths{0, 32768, "0 to 32,768"};
inline constexpr NumberRange kPixels{1, 4096, "1 to 4,096"};
inline constexpr NumberRange kShares{0, 1, "0 to 1"};
inline constexpr NumberRange kCosines{-1, 1, "-1 to 1"};
inline constexpr NumberRange kMargins{0, 2, "0 to 2"};
inline constexpr NumberRange kScales{0, 1e9, "0 to 1,000,000,000.0"};
inline constexpr NumberRange kBiases{-1e9, 1e9, "-1,000,000,000.0 to 1,000,000,000.0"};
inline constexpr NumberRange kMeans{-1000, 1000, "-1,000 to 1,000"};
inline constexpr NumberRange kDeviations{1e-6, 1000, "1e-06 to 1,000"};
inline constexpr NumberRange kColors{0, 255, "0 to 255"};
inline constexpr NumberRange kDistances{0, 1e30, "0 to 1e+30"};
inline constexpr NumberRange kOptions{-9223372036854775808.0, 9223372036854775808.0,
                                      "-9,223,372,036,854,775,808 to 9,223,372,036,854,775,808"};

// ---- ranges of texts ----

constexpr bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
constexpr bool is_small(char c) {
    return c >= 'a' && c <= 'z';
}
constexpr bool is_letter(char c) {
    return is_small(c) || (c >= 'A' && c <= 'Z');
}

template <typename Allowed>
bool consists_of(std::string_view text, std::size_t most, Allowed allowed) {
    return !text.empty() && text.size() <= most && std::all_of(text.begin(), text.end(), allowed);
}

inline bool is_sha256(std::string_view text) {
    return text.size() == 64 && consists_of(text, 64, [](char c) { return is_digit(c) || (c >= 'a' && c <= 'f'); });
}
inline bool is_weights(std::string_view text) {
    return text == "random" || is_sha256(text);
}
inline bool is_tensor_name(std::string_view text) {
    return consists_of(text, 256, [](char c) {
        return is_letter(c) || is_digit(c) || std::string_view("_./:-").find(c) != std::string_view::npos;
    });
}
inline bool is_dtype(std::string_view text) {
    return text == "uint8" || text == "int32" || text == "float32";
}
inline bool is_kind(std::string_view text) {
    return consists_of(text, 64, [](char c) { return is_small(c) || is_digit(c) || c == '-'; });
}
inline bool is_version(std::string_view text) {
    return consists_of(text, 128, [](char c) {
        return is_letter(c) || is_digit(c) || std::string_view("_.+!-").find(c) != std::string_view::npos;
    });
}

inline constexpr TextRange kWeights{is_weights, "64 hexadecimal digits, or random"};
inline constexpr TextRange kTensorName{is_tensor_name, "1 to 256 letters, digits and _ . / : -"};
inline constexpr TextRange kDtype{is_dtype, "uint8, int32 or float32"};
inline constexpr TextRange kKind{is_kind, "1 to 64 small letters, digits and -"};
inline constexpr TextRange kLibraryVersion{is_version, "1 to 128 letters, digits and _ . + ! -"};
inline constexpr TextRange kSha256{is_sha256, "64 hexadecimal digits"};

}  // namespace oce::core::ranges
