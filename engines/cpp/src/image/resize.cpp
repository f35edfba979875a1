// Resizing: the order of the axes, and the passes for each kind of samples.
#include "image/resize.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "image/convert.hpp"
#include "image/resample.hpp"

namespace oce::core {
namespace {

bool stays(const Axis& axis) {
    return axis.old == axis.fresh;
}

bool all_kept(const Axis& axis) {
    return stays(axis) && axis.first == 0 && axis.count == axis.old;
}

bool height_first(const Resizing& resizing) {
    const std::int64_t rows = resizing.rows.old - resizing.rows.fresh, columns = resizing.columns.old - resizing.columns.fresh;
    return rows > 0 && rows > 2 * columns;
}

Pixels cropped(const Pixels& pixels, Span columns, Span rows) {
    Pixels result(pixels.kind, static_cast<int>(columns.end - columns.begin), static_cast<int>(rows.end - rows.begin));
    result.palette = pixels.palette;
    const std::ptrdiff_t skipped = columns.begin * bytes_of(pixels.kind);
    for (int y = 0; y < result.height; ++y) {
        std::memcpy(result.row(y), pixels.row(rows.begin + y) + skipped, static_cast<std::size_t>(result.stride()));
    }
    return result;
}

/// Numbers of the nearest old samples. The position is added up, because that decides between two samples as near.
std::vector<std::int64_t> nearest(const Axis& axis) {
    const double step = static_cast<double>(axis.old) / static_cast<double>(axis.fresh);
    double position = step * 0.5;
    std::vector<std::int64_t> found;
    for (std::int64_t i = 0; i < axis.first + axis.count; ++i, position += step) {
        if (i >= axis.first) found.push_back(std::min(static_cast<std::int64_t>(position), axis.old - 1));
    }
    return found;
}

Pixels nearest_pixels(const Pixels& pixels, const Resizing& resizing) {
    const std::vector<std::int64_t> columns = nearest(resizing.columns), rows = nearest(resizing.rows);
    Pixels result(pixels.kind, static_cast<int>(columns.size()), static_cast<int>(rows.size()));
    result.palette = pixels.palette;
    for (int y = 0; y < result.height; ++y) {
        const std::uint8_t* from = pixels.row(rows[y]);
        std::uint8_t* to = result.row(y);
        for (const std::int64_t column : columns) *to++ = from[column];
    }
    return result;
}

/// A new 16-bit sample from old ones that are `step` bytes apart: a sum in float64, its halves rounded away from zero.
std::uint16_t wide_sample(const std::vector<double>& weights, const std::uint8_t* from, std::ptrdiff_t step) {
    double sum = 0;
    for (const double weight : weights) {
        std::uint16_t sample;
        std::memcpy(&sample, from, sizeof sample);
        sum += sample * weight;
        from += step;
    }
    const double rounded = std::trunc(sum >= 0 ? sum + 0.5 : sum - 0.5);
    return static_cast<std::uint16_t>(std::clamp(rounded, 0.0, 65535.0));
}

void store(std::uint16_t sample, std::uint8_t* to) {
    std::memcpy(to, &sample, sizeof sample);
}

Pixels wide_columns(const Pixels& pixels, const Axis& axis, Span rows, std::int64_t base, Interpolation interpolation) {
    Pixels result(pixels.kind, static_cast<int>(axis.count), static_cast<int>(rows.end - rows.begin));
    std::vector<double> weights;
    for (std::int64_t x = 0; x < axis.count; ++x) {
        const Span span = span_of(axis, axis.first + x, interpolation);
        weights_of(axis, axis.first + x, span, interpolation, weights);
        for (int y = 0; y < result.height; ++y) {
            store(wide_sample(weights, pixels.row(rows.begin + y) + (span.begin - base) * 2, 2), result.row(y) + x * 2);
        }
    }
    return result;
}

Pixels wide_rows(const Pixels& pixels, const Axis& axis, Span columns, std::int64_t base, Interpolation interpolation) {
    Pixels result(pixels.kind, static_cast<int>(columns.end - columns.begin), static_cast<int>(axis.count));
    std::vector<double> weights;
    for (std::int64_t y = 0; y < axis.count; ++y) {
        const Span span = span_of(axis, axis.first + y, interpolation);
        weights_of(axis, axis.first + y, span, interpolation, weights);
        const std::uint8_t* from = pixels.row(span.begin - base) + columns.begin * 2;
        for (std::int64_t x = 0; x < result.width; ++x) {
            store(wide_sample(weights, from + x * 2, pixels.stride()), result.row(y) + x * 2);
        }
    }
    return result;
}

/// New columns of the rows `rows`.
///
/// base: the old column that is the first in `pixels`.
Pixels new_columns(const Pixels& pixels, const Axis& axis, Span rows, std::int64_t base, Interpolation interpolation) {
    const int channels = bytes_of(pixels.kind);
    const Kernels& kernels = chosen_kernels();
    Pixels result(pixels.kind, static_cast<int>(axis.count), static_cast<int>(rows.end - rows.begin));
    for (std::int64_t done = 0; done < axis.count;) {
        const Taps taps = next_taps(axis, axis.first + done, base, interpolation);
        kernels.horizontal(taps, {pixels.row(rows.begin), pixels.stride()}, result.height, channels,
                           {result.data.get() + done * channels, result.stride()});
        done += taps.size();
    }
    return result;
}

/// New rows of the columns `columns`.
///
/// base: the old row that is the first in `pixels`.
Pixels new_rows(const Pixels& pixels, const Axis& axis, Span columns, std::int64_t base, Interpolation interpolation) {
    const Kernels& kernels = chosen_kernels();
    Pixels result(pixels.kind, static_cast<int>(columns.end - columns.begin), static_cast<int>(axis.count));
    for (std::int64_t done = 0; done < axis.count;) {
        const Taps taps = next_taps(axis, axis.first + done, base, interpolation);
        kernels.vertical(taps, {pixels.data.get() + columns.begin * bytes_of(pixels.kind), pixels.stride()}, result.stride(),
                         {result.row(done), result.stride()});
        done += taps.size();
    }
    return result;
}

Pixels columns_of(const Pixels& pixels, const Axis& axis, Span rows, std::int64_t base, Interpolation interpolation) {
    if (pixels.kind == Kind::grey16) return wide_columns(pixels, axis, rows, base, interpolation);
    return new_columns(pixels, axis, rows, base, interpolation);
}

Pixels rows_of(const Pixels& pixels, const Axis& axis, Span columns, std::int64_t base, Interpolation interpolation) {
    if (pixels.kind == Kind::grey16) return wide_rows(pixels, axis, columns, base, interpolation);
    return new_rows(pixels, axis, columns, base, interpolation);
}

/// Both axes, or the one that does not keep its length.
Pixels interpolated(const Pixels& pixels, const Resizing& resizing, Interpolation interpolation) {
    const Axis &columns = resizing.columns, &rows = resizing.rows;
    // What the second pass reads, which is all that the first one makes.
    const Span old_columns = span_of_all(columns, interpolation), old_rows = span_of_all(rows, interpolation);
    if (stays(columns)) return rows_of(pixels, rows, old_columns, 0, interpolation);
    if (stays(rows)) return columns_of(pixels, columns, old_rows, 0, interpolation);
    if (height_first(resizing)) {
        const Pixels between = rows_of(pixels, rows, old_columns, 0, interpolation);
        return columns_of(between, columns, {0, between.height}, old_columns.begin, interpolation);
    }
    const Pixels between = columns_of(pixels, columns, old_rows, 0, interpolation);
    return rows_of(between, rows, {0, between.width}, old_rows.begin, interpolation);
}

}  // namespace

Pixels resized(Pixels pixels, const Resizing& resizing, Interpolation interpolation) {
    const Axis &columns = resizing.columns, &rows = resizing.rows;
    if (stays(columns) && stays(rows)) {
        if (all_kept(columns) && all_kept(rows)) return pixels;
        return cropped(pixels, {columns.first, columns.first + columns.count}, {rows.first, rows.first + rows.count});
    }
    if (pixels.kind == Kind::palette || pixels.kind == Kind::bit) return nearest_pixels(pixels, resizing);
    if (pixels.kind != Kind::rgba) return interpolated(pixels, resizing, interpolation);
    premultiply(pixels);
    Pixels result = interpolated(pixels, resizing, interpolation);
    unmultiply(result);
    return result;
}

}  // namespace oce::core
