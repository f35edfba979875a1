// The arithmetic of alpha, CMYK and RGB, with Pillow's rounding.
#include "image/convert.hpp"

#include <algorithm>

namespace oce::core {
namespace {

/// a * b / 255, rounded, for 0 <= a, b <= 255.
int share(int a, int b) {
    const int t = a * b + 128;
    return (t + (t >> 8)) >> 8;
}

std::int64_t count_of(const Pixels& pixels) {
    return static_cast<std::int64_t>(pixels.width) * pixels.height;
}

void grey_to_rgb(const std::uint8_t* from, std::uint8_t* to, int width) {
    for (int x = 0; x < width; ++x, to += 3) to[0] = to[1] = to[2] = from[x];
}

/// Cut, not scaled: most of a 16-bit picture is white, as in open_clip.
void grey16_to_rgb(const std::uint8_t* from, std::uint8_t* to, int width) {
    for (int x = 0; x < width; ++x, to += 3) {
        std::uint16_t sample;
        std::memcpy(&sample, from + 2 * static_cast<std::ptrdiff_t>(x), sizeof sample);
        to[0] = to[1] = to[2] = static_cast<std::uint8_t>(std::min<int>(sample, 255));
    }
}

void palette_to_rgb(const std::uint8_t* from, const std::uint8_t* palette, std::uint8_t* to, int width) {
    for (int x = 0; x < width; ++x, to += 3) std::copy_n(palette + std::ptrdiff_t{3} * from[x], 3, to);
}

void cmyk_to_rgb(const std::uint8_t* from, std::uint8_t* to, int width) {
    for (int x = 0; x < width; ++x, from += 4, to += 3) {
        const int white = 255 - from[3];
        for (int channel = 0; channel < 3; ++channel) to[channel] = static_cast<std::uint8_t>(white - share(from[channel], white));
    }
}

void drop_fourth(const std::uint8_t* from, std::uint8_t* to, int width) {
    for (int x = 0; x < width; ++x, from += 4, to += 3) std::copy_n(from, 3, to);
}

}  // namespace

void premultiply(Pixels& pixels) {
    std::uint8_t* pixel = pixels.data.get();
    for (std::int64_t left = count_of(pixels); left > 0; --left, pixel += 4) {
        for (int channel = 0; channel < 3; ++channel) pixel[channel] = static_cast<std::uint8_t>(share(pixel[channel], pixel[3]));
    }
}

void unmultiply(Pixels& pixels) {
    std::uint8_t* pixel = pixels.data.get();
    for (std::int64_t left = count_of(pixels); left > 0; --left, pixel += 4) {
        const int alpha = pixel[3];
        if (alpha == 0 || alpha == 255) continue;
        for (int channel = 0; channel < 3; ++channel) {
            pixel[channel] = static_cast<std::uint8_t>(std::min(255, 255 * pixel[channel] / alpha));
        }
    }
}

void to_rgb(const Pixels& pixels, int row, std::uint8_t* rgb) {
    const std::uint8_t* from = pixels.row(row);
    switch (pixels.kind) {
        case Kind::grey:
        case Kind::bit:
            return grey_to_rgb(from, rgb, pixels.width);
        case Kind::grey16:
            return grey16_to_rgb(from, rgb, pixels.width);
        case Kind::palette:
            return palette_to_rgb(from, pixels.palette.data(), rgb, pixels.width);
        case Kind::cmyk:
            return cmyk_to_rgb(from, rgb, pixels.width);
        case Kind::rgb:
        case Kind::rgba:
            return drop_fourth(from, rgb, pixels.width);
    }
}

std::array<std::uint8_t, 3> color_of(const Pixels& pixels, int fill) {
    Pixels one(pixels.kind, 1, 1);
    one.palette = pixels.palette;
    const auto value = static_cast<std::uint8_t>(pixels.kind == Kind::bit && fill != 0 ? 255 : fill);
    std::memset(one.data.get(), value, static_cast<std::size_t>(one.stride()));
    if (pixels.kind == Kind::grey16) {
        const std::uint16_t wide = value;
        std::memcpy(one.data.get(), &wide, sizeof wide);
    }
    std::array<std::uint8_t, 3> color{};
    to_rgb(one, 0, color.data());
    return color;
}

}  // namespace oce::core
