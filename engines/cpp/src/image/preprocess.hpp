// From an encoded image file, or RGB pixels, to the pixels of the image tower (engines/FORMAT.md, "From a decoded image to
// pixels").
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "bundle/manifest.hpp"

namespace oce::core {

/// Largest width x height that is decoded unless the caller sets another limit.
inline constexpr std::int64_t kMaxPixels = 178'956'970;

struct DecodeOptions {
    /// Largest width x height of the decoded image, and of the resized one before the crop.
    std::int64_t max_pixels = kMaxPixels;
    /// Decode JPEG files at the smallest of the scales 1/2, 1/4 and 1/8 that suffices, see `reduction_of`.
    bool fast_decode = false;
    /// Refuse files with unusual content, see image/plain_files.hpp.
    bool plain_files = false;
};

/// The path of an image file.
struct ImagePath {
    std::string path;
};

/// The content of an image file; the bytes must live as long as this view is used.
struct ImageBytes {
    std::string_view data;
};

/// RGB pixels, 8 bits a channel; rows are `stride` bytes apart.
struct RgbView {
    const std::uint8_t* data = nullptr;
    int width = 0, height = 0;
    std::ptrdiff_t stride = 0;
};

using ImageInput = std::variant<ImagePath, ImageBytes, RgbView>;

/// Decode, resize, crop or pad, and convert to RGB: the pixels of engines.inputs.preprocess.preprocess_image, to the bit.
///
/// pixels: height * width * 3 bytes of `config`, all written.
/// Throws ImageError where the file is missing, empty, truncated, of a format that is not supported, or too large.
void preprocess(const ImageInput& image, const Preprocess& config, const DecodeOptions& options, std::span<std::uint8_t> pixels);

}  // namespace oce::core
