// What the decoders' fuzz targets share: an image file of one format, through the whole preprocessing.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "errors.hpp"
#include "image/preprocess.hpp"

namespace oce::fuzz {

/// Preprocess bytes if they begin as the format does, so that each target stays with its decoder.
inline int preprocess_as(std::string_view beginning, const std::uint8_t* data, std::size_t size) {
    const std::string_view bytes(reinterpret_cast<const char*>(data), size);
    if (!bytes.starts_with(beginning)) return -1;
    core::Preprocess config;
    config.height = config.width = 32;
    config.resize_mode = static_cast<core::ResizeMode>(bytes.back() % 3);
    std::vector<std::uint8_t> pixels(32 * 32 * 3);
    core::DecodeOptions options{.max_pixels = 1 << 20};
    options.fast_decode = (bytes.size() & 1) != 0;
    options.plain_files = (bytes.size() & 2) != 0;
    try {
        core::preprocess(core::ImageBytes{bytes}, config, options, pixels);
    } catch (const core::ImageError&) {
        return 0;
    }
    return 0;
}

}  // namespace oce::fuzz
