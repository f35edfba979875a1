// An image file's content.
#pragma once

#include <cstdint>
#include <string>

namespace oce::core {

/// Read a whole file, at most what a picture of `max_pixels` can need.
///
/// Throws ImageError where the file is missing, empty, not a regular file, cannot be read, or is larger.
std::string read_image_file(const std::string& path, std::int64_t max_pixels);

}  // namespace oce::core
