// Sizes after resizing, and where the crop or the border lies.
#include "image/transform.hpp"

#include <algorithm>
#include <cmath>

#include "errors.hpp"
#include "image/convert.hpp"
#include "image/resize.hpp"

namespace oce::core {
namespace {

/// The nearest whole number, of halves the even one, as Python's `round`.
std::int64_t nearest_even(double x) {
    const double below = std::floor(x), rest = x - below;
    const auto whole = static_cast<std::int64_t>(below);
    return rest > 0.5 || (rest == 0.5 && whole % 2 != 0) ? whole + 1 : whole;
}

Size resized_size(Size old, const Preprocess& config) {
    if (config.resize_mode == ResizeMode::squash) return {config.height, config.width};
    if (config.resize_mode == ResizeMode::shortest && config.height == config.width) {
        const auto product = static_cast<double>(config.height * std::max(old.height, old.width));
        const auto longer = static_cast<std::int64_t>(product / static_cast<double>(std::min(old.height, old.width)));
        return old.width <= old.height ? Size{longer, config.width} : Size{config.height, longer};
    }
    const auto height = static_cast<double>(old.height), width = static_cast<double>(old.width);
    const double down = height / config.height, across = width / config.width;
    const double ratio = config.resize_mode == ResizeMode::longest ? std::max(down, across) : std::min(down, across);
    return {nearest_even(height / ratio), nearest_even(width / ratio)};
}

std::string by(std::int64_t width, std::int64_t height) {
    return std::to_string(width) + " x " + std::to_string(height);
}

const char* name_of(ResizeMode mode) {
    switch (mode) {
        case ResizeMode::shortest:
            return "shortest";
        case ResizeMode::longest:
            return "longest";
        case ResizeMode::squash:
            break;
    }
    return "squash";
}

/// Of one axis: the samples that are kept, and the border before them.
struct Placed {
    Axis axis;
    int before = 0;
};

Placed place(std::int64_t old, std::int64_t fresh, int target) {
    if (fresh < target) return {{old, fresh, 0, fresh}, static_cast<int>((target - fresh) / 2)};
    return {{old, fresh, nearest_even(static_cast<double>(fresh - target) / 2), target}, 0};
}

std::array<std::uint8_t, 3> border_color(const Pixels& pixels, const Preprocess& config) {
    if (config.resize_mode != ResizeMode::longest) return color_of(pixels, 0);
    if (!config.fill_is_color) return color_of(pixels, config.fill[0]);
    std::array<std::uint8_t, 3> color{};
    std::transform(config.fill.begin(), config.fill.end(), color.begin(),
                   [](int value) { return static_cast<std::uint8_t>(value); });
    return color;
}

void fill(std::span<std::uint8_t> result, const std::array<std::uint8_t, 3>& color) {
    for (std::size_t i = 0; i + 2 < result.size(); i += 3) std::copy(color.begin(), color.end(), &result[i]);
}

}  // namespace

void check_sizes(const std::string& name, std::int64_t width, std::int64_t height, const Preprocess& config,
                 std::int64_t max_pixels) {
    if (width == 0 || height == 0)
        throw ImageError(name + ": the image is " + by(width, height) + " pixels; it needs at least one");
    if (height > max_pixels / width) {
        throw ImageError(name + ": " + by(width, height) + " = " + std::to_string(width * height) +
                         " pixels are over the limit of " + std::to_string(max_pixels) +
                         " pixels; scale the image down first, or raise max_pixels");
    }
    const Size fresh = resized_size({height, width}, config);
    if (fresh.height == 0 || fresh.width == 0 || fresh.height > max_pixels / fresh.width) {
        throw ImageError(name + ": " + by(width, height) + " pixels resized by '" + name_of(config.resize_mode) + "' would be " +
                         by(fresh.width, fresh.height) + ", outside 1 to " + std::to_string(max_pixels) +
                         " pixels; crop the image to a less extreme aspect ratio");
    }
}

int reduction_of(Size size, const Preprocess& config) {
    constexpr std::int64_t kOversampling = 2;  // by measurement, see docs/cpp.md
    const Size fresh = resized_size(size, config);
    const std::int64_t ratio = std::min(size.width / (kOversampling * fresh.width), size.height / (kOversampling * fresh.height));
    for (const int reduction : {8, 4, 2}) {
        if (ratio >= reduction) return reduction;
    }
    return 1;
}

void transform(Pixels pixels, Size size, const Preprocess& config, std::span<std::uint8_t> result) {
    const Size fresh = resized_size(size, config);
    Placed rows = place(pixels.height, fresh.height, config.height);
    Placed columns = place(pixels.width, fresh.width, config.width);
    if (pixels.reduction > 1) {  // the last row and column of a reduction may lie beyond the picture's edge
        rows.axis.extent = static_cast<double>(size.height) / pixels.reduction;
        columns.axis.extent = static_cast<double>(size.width) / pixels.reduction;
    }
    const bool free_shape = config.resize_mode == ResizeMode::shortest && config.height != config.width;
    // open_clip's transform does not pass the interpolation on where the shape is free.
    const Interpolation interpolation = free_shape ? Interpolation::bicubic : config.interpolation;
    const Pixels kept = resized(std::move(pixels), {columns.axis, rows.axis}, interpolation);
    if (kept.height < config.height || kept.width < config.width) fill(result, border_color(kept, config));
    const std::ptrdiff_t stride = static_cast<std::ptrdiff_t>(config.width) * 3;
    for (int y = 0; y < kept.height; ++y) {
        to_rgb(kept, y, result.data() + (rows.before + y) * stride + static_cast<std::ptrdiff_t>(columns.before) * 3);
    }
}

}  // namespace oce::core
