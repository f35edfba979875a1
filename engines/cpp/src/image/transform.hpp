// open_clip's inference transform of decoded pixels: resize, crop or pad, and then conversion to RGB.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "bundle/manifest.hpp"
#include "image/pixels.hpp"

namespace oce::core {

struct Size {
    std::int64_t height = 0, width = 0;
};

/// Refuse an image that has no pixels or more than `max_pixels`, before and after resizing.
///
/// Throws ImageError, with `name` as the image's name.
void check_sizes(const std::string& name, std::int64_t width, std::int64_t height, const Preprocess& config,
                 std::int64_t max_pixels);

/// The largest of 8, 4, 2 and 1 by which a JPEG file's size can be divided while both sides stay at least twice those of the
/// resized picture: Pillow's `Image.draft` for twice that size.
int reduction_of(Size size, const Preprocess& config);

/// The transform's result for pixels whose sizes were checked: config.height * config.width * 3 bytes.
///
/// size: the image's own size, of which `pixels` may be a reduction.
void transform(Pixels pixels, Size size, const Preprocess& config, std::span<std::uint8_t> result);

}  // namespace oce::core
