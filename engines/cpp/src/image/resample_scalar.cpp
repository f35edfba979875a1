// Kernels in plain C++, for every processor; the others must give equal results.
#include <vector>

#include "image/resample.hpp"

namespace oce::core {
namespace {

constexpr std::int32_t kHalf = 1 << (Taps::kBits - 1);

std::uint8_t clipped(std::int32_t sum) {
    const std::int32_t value = sum >> Taps::kBits;
    return static_cast<std::uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

template <int channels>
void one_row(const Taps& taps, const std::uint8_t* from, std::uint8_t* to) {
    for (std::int64_t i = 0; i < taps.size(); ++i) {
        const std::int32_t* weights = taps.of(i);
        const std::uint8_t* sample = from + taps.first[i] * channels;
        std::int32_t sums[channels];
        for (std::int32_t& sum : sums) sum = kHalf;
        for (std::int64_t j = 0; j < taps.length[i]; ++j, sample += channels) {
            for (int channel = 0; channel < channels; ++channel) sums[channel] += sample[channel] * weights[j];
        }
        for (const std::int32_t sum : sums) *to++ = clipped(sum);
    }
}

void horizontal(const Taps& taps, Rows from, std::int64_t rows, int channels, WritableRows to) {
    for (std::int64_t y = 0; y < rows; ++y) {
        const std::uint8_t* row = from.data + y * from.stride;
        std::uint8_t* result = to.data + y * to.stride;
        channels == 1 ? one_row<1>(taps, row, result) : one_row<4>(taps, row, result);
    }
}

void vertical(const Taps& taps, Rows from, std::int64_t bytes, WritableRows to) {
    std::vector<std::int32_t> sums(static_cast<std::size_t>(bytes));
    for (std::int64_t i = 0; i < taps.size(); ++i) {
        sums.assign(sums.size(), kHalf);
        for (std::int64_t j = 0; j < taps.length[i]; ++j) {
            const std::uint8_t* row = from.data + (taps.first[i] + j) * from.stride;
            const std::int32_t weight = taps.of(i)[j];
            for (std::int64_t x = 0; x < bytes; ++x) sums[x] += row[x] * weight;
        }
        std::uint8_t* result = to.data + i * to.stride;
        for (std::int64_t x = 0; x < bytes; ++x) result[x] = clipped(sums[x]);
    }
}

}  // namespace

const Kernels kScalarKernels = {"scalar", horizontal, vertical};

}  // namespace oce::core
