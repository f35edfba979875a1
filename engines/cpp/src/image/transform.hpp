// open_clip's inference transform of decoded pixels: resize, crop or pad, and then conversion to RGB.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "bundle/manifest.hpp"
#include "image/pixels.hpp"

namespace oce::core {

/// Refuse an image that has no pixels or more than `max_pixels`, before and after resizing.
///
/// Throws ImageError, with `name` as the image's name.
void check_sizes(const std::string& name, std::int64_t width, std::int64_t height, const Preprocess& config,
                 std::int64_t max_pixels);

/// The transform's result for pixels whose sizes were checked: config.height * config.width * 3 bytes.
void transform(Pixels pixels, const Preprocess& config, std::span<std::uint8_t> result);

}  // namespace oce::core
