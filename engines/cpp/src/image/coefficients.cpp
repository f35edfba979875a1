// The filters: reach, weights in float64 and in whole numbers, with the order of operations that engines/FORMAT.md gives.
#include "image/coefficients.hpp"

#include <algorithm>

namespace oce::core {
namespace {

// Weights held at a time. A picture of one row and 100 million columns would need gigabytes for all of them.
constexpr std::int64_t kMostWeights = std::int64_t{1} << 21;

double bilinear(double x) {
    if (x < 0) x = -x;
    return x < 1 ? 1 - x : 0;
}

double bicubic(double x) {
    if (x < 0) x = -x;
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

struct Filter {
    double scale, stretch, reach;

    Filter(const Axis& axis, Interpolation interpolation)
        : scale((axis.extent > 0 ? axis.extent : static_cast<double>(axis.old)) / static_cast<double>(axis.fresh)),
          stretch(std::max(scale, 1.0)),
          reach((interpolation == Interpolation::bicubic ? 2.0 : 1.0) * stretch) {}

    [[nodiscard]] double center(std::int64_t index) const { return (static_cast<double>(index) + 0.5) * scale; }
};

std::int64_t without_fraction(double x) {
    return static_cast<std::int64_t>(x);
}

std::int32_t whole(double weight) {
    const double scaled = weight * (1 << Taps::kBits);
    return static_cast<std::int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
}

}  // namespace

Span span_of(const Axis& axis, std::int64_t index, Interpolation interpolation) {
    const Filter filter(axis, interpolation);
    const double center = filter.center(index);
    const auto begin = without_fraction(center - filter.reach + 0.5);
    const auto end = without_fraction(center + filter.reach + 0.5);
    return {std::max<std::int64_t>(0, begin), std::min(axis.old, end)};
}

Span span_of_all(const Axis& axis, Interpolation interpolation) {
    if (axis.old == axis.fresh) return {axis.first, axis.first + axis.count};
    return {span_of(axis, axis.first, interpolation).begin, span_of(axis, axis.first + axis.count - 1, interpolation).end};
}

void weights_of(const Axis& axis, std::int64_t index, Span span, Interpolation interpolation, std::vector<double>& weights) {
    const Filter filter(axis, interpolation);
    const double center = filter.center(index), inverse = 1 / filter.stretch;
    weights.resize(static_cast<std::size_t>(span.end - span.begin));
    double total = 0;
    std::int64_t sample = span.begin;
    for (double& weight : weights) {
        const double x = (static_cast<double>(sample++) - center + 0.5) * inverse;
        weight = interpolation == Interpolation::bicubic ? bicubic(x) : bilinear(x);
        total += weight;
    }
    if (total == 0) return;
    for (double& weight : weights) weight /= total;
}

Taps next_taps(const Axis& axis, std::int64_t index, std::int64_t base, Interpolation interpolation) {
    const Filter filter(axis, interpolation);
    const std::int64_t most = std::min(axis.old, static_cast<std::int64_t>(2 * filter.reach) + 2);
    Taps taps;
    taps.stride = (most + Taps::kGroup - 1) / Taps::kGroup * Taps::kGroup;
    const std::int64_t end = axis.first + axis.count;
    const std::int64_t count = std::min(end - index, std::max<std::int64_t>(1, kMostWeights / taps.stride));
    taps.weights.resize(static_cast<std::size_t>(count * taps.stride));
    std::vector<double> weights;
    for (std::int64_t i = 0; i < count; ++i) {
        const Span span = span_of(axis, index + i, interpolation);
        weights_of(axis, index + i, span, interpolation, weights);
        std::transform(weights.begin(), weights.end(), taps.weights.begin() + i * taps.stride, whole);
        taps.first.push_back(span.begin - base);
        taps.length.push_back(span.end - span.begin);
    }
    return taps;
}

}  // namespace oce::core
