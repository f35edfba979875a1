// Conversions of pixels: alpha multiplied into colours and back, and every kind to RGB.
#pragma once

#include <array>

#include "image/pixels.hpp"

namespace oce::core {

/// Multiply the colours of rgba pixels by their alpha, rounded.
void premultiply(Pixels& pixels);

/// Divide the colours of rgba pixels by their alpha; they stay where it is 0 or 255.
void unmultiply(Pixels& pixels);

/// Pixels of one row to red, green and blue.
void to_rgb(const Pixels& pixels, int row, std::uint8_t* rgb);

/// The RGB colour of a pixel in which every channel, also that of a palette's index, has the value `fill`.
std::array<std::uint8_t, 3> color_of(const Pixels& pixels, int fill);

}  // namespace oce::core
