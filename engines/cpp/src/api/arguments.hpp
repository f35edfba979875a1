// Structs of the C API as values of the library: options, images, texts.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "image/preprocess.hpp"
#include "modules/module.hpp"
#include "openclip_engines/clip.h"

namespace oce::core {

/// The caller's options with defaults; throws InputError for a value that no option takes.
Options options_of(const oce_options* options);

/// The caller's images; the results point to the caller's memory. Throws InputError.
std::vector<ImageInput> images_of(const oce_image* images, std::size_t image_size, std::size_t count);

/// The caller's texts; the results point to the caller's memory. Throws InputError.
std::vector<std::string_view> texts_of(const oce_text* texts, std::size_t count, const char* name);

}  // namespace oce::core
