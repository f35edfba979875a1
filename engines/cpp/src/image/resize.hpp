// Pixels of one size to the part of another size that is kept.
#pragma once

#include "bundle/manifest.hpp"
#include "image/coefficients.hpp"
#include "image/pixels.hpp"

namespace oce::core {

/// The columns and rows of an image before and after resizing, and which of the new ones are kept.
struct Resizing {
    Axis columns, rows;
};

/// Resize both axes, each in its turn, to the kept columns and rows; equal to resizing all and cropping.
///
/// Palette and 1-bit images take the nearest pixel; the colours of rgba are weighted by alpha, unless the size stays.
Pixels resized(Pixels pixels, const Resizing& resizing, Interpolation interpolation);

}  // namespace oce::core
