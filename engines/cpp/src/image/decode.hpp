// From an encoded file's bytes to pixels.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "errors.hpp"
#include "image/pixels.hpp"

namespace oce::core {

/// An encoded file and what its errors need.
struct Encoded {
    std::string name;  // in messages
    std::string_view data;
    /// Throws ImageError for a width and height that are refused; called when the header is read and before pixels take memory.
    std::function<void(std::int64_t, std::int64_t)> check_size;
    /// The number by which a JPEG file's width and height are divided: 1, 2, 4 or 8. Called after `check_size`.
    std::function<int()> reduction;
    /// Refuse files with unusual content.
    bool plain = false;
};

/// Decode a JPEG, PNG or WebP file, recognised by its first bytes.
///
/// Throws ImageError for another format, and for a file that is damaged or truncated.
Pixels decode(const Encoded& file);

// Each throws ImageError, with `plain` also where a library warns about the file.
Pixels decode_jpeg(const Encoded& file);
Pixels decode_png(const Encoded& file);
Pixels decode_webp(const Encoded& file);

/// The format's name where the first bytes are those of a picture that this library does not read, else null.
const char* unsupported_format(std::string_view data);

/// The error for pixels that cannot be decoded.
ImageError damaged(const std::string& name, const std::string& reason);

}  // namespace oce::core
