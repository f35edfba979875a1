// Which old samples make a new one when an axis is resized, and their weights.
#pragma once

#include <cstdint>
#include <vector>

#include "bundle/manifest.hpp"

namespace oce::core {

/// New samples first ... first + count - 1 of an axis that is resized from `old` to `fresh` samples.
struct Axis {
    std::int64_t old = 1, fresh = 1;
    std::int64_t first = 0, count = 1;
    /// Length of the part that becomes the new samples, from the first old sample on; 0: all `old` samples.
    double extent = 0;
};

/// Old samples begin ... end - 1.
struct Span {
    std::int64_t begin = 0, end = 0;
};

/// Old samples that count for the new sample `index` of an axis.
Span span_of(const Axis& axis, std::int64_t index, Interpolation interpolation);

/// Old samples that count for any of the axis's new samples; all the samples first ... where the axis keeps its length.
Span span_of_all(const Axis& axis, Interpolation interpolation);

/// The weights of the old samples in `span` for the new sample `index`; their sum is 1.
void weights_of(const Axis& axis, std::int64_t index, Span span, Interpolation interpolation, std::vector<double>& weights);

/// Weights of 8-bit samples for some new samples that follow each other.
struct Taps {
    static constexpr int kBits = 22;   // of a weight's fraction
    static constexpr int kGroup = 16;  // `stride` is a multiple of this

    std::vector<std::int64_t> first;    // of each new sample: the first old one
    std::vector<std::int64_t> length;   // and how many
    std::int64_t stride = 0;            // weights of a new sample, 0 after its `length`
    std::vector<std::int32_t> weights;  // weight * 2^22

    [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(first.size()); }
    [[nodiscard]] const std::int32_t* of(std::int64_t index) const { return weights.data() + index * stride; }
};

/// Weights of the new samples from `index` on: as many as memory for some millions of weights allows, and at least one.
///
/// base: subtracted from every `first`, because the caller holds the old samples from there on.
Taps next_taps(const Axis& axis, std::int64_t index, std::int64_t base, Interpolation interpolation);

}  // namespace oce::core
