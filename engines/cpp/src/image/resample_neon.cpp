// Kernels for aarch64, all of which have NEON: 32-bit multiplications of whole weights, which are exact.
#if defined(__aarch64__)

#include <arm_neon.h>

#include "image/resample.hpp"

namespace oce::core {
namespace {

constexpr std::int32_t kHalf = 1 << (Taps::kBits - 1);

/// Eight sums, shifted and clipped to 8 bits.
uint8x8_t clipped(int32x4_t first, int32x4_t second) {
    const int16x8_t words = vcombine_s16(vqmovn_s32(vshrq_n_s32(first, Taps::kBits)), vqmovn_s32(vshrq_n_s32(second, Taps::kBits)));
    return vqmovun_s16(words);
}

std::uint8_t clipped(std::int32_t sum) {
    const std::int32_t value = sum >> Taps::kBits;
    return static_cast<std::uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

/// A row of four channels; two old pixels at a time. The weight after the last is 0.
void four_channels(const Taps& taps, const std::uint8_t* from, std::uint8_t* to) {
    for (std::int64_t i = 0; i < taps.size(); ++i, to += 4) {
        const std::int32_t* weights = taps.of(i);
        const std::uint8_t* sample = from + taps.first[i] * 4;
        int32x4_t even = vdupq_n_s32(kHalf), odd = vdupq_n_s32(0);
        for (std::int64_t j = 0; j < taps.length[i]; j += 2, sample += 8) {
            const int16x8_t two = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(sample)));
            even = vmlaq_n_s32(even, vmovl_s16(vget_low_s16(two)), weights[j]);
            odd = vmlaq_n_s32(odd, vmovl_s16(vget_high_s16(two)), weights[j + 1]);
        }
        const int32x4_t sums = vaddq_s32(even, odd);
        vst1_lane_u32(reinterpret_cast<std::uint32_t*>(to), vreinterpret_u32_u8(clipped(sums, sums)), 0);
    }
}

void one_channel(const Taps& taps, const std::uint8_t* from, std::uint8_t* to) {
    for (std::int64_t i = 0; i < taps.size(); ++i) {
        const std::int32_t* weights = taps.of(i);
        const std::uint8_t* sample = from + taps.first[i];
        std::int32_t sum = kHalf;
        for (std::int64_t j = 0; j < taps.length[i]; ++j) sum += sample[j] * weights[j];
        to[i] = clipped(sum);
    }
}

void horizontal(const Taps& taps, Rows from, std::int64_t rows, int channels, WritableRows to) {
    for (std::int64_t y = 0; y < rows; ++y) {
        const std::uint8_t* row = from.data + y * from.stride;
        std::uint8_t* result = to.data + y * to.stride;
        channels == 4 ? four_channels(taps, row, result) : one_channel(taps, row, result);
    }
}

uint8x8_t eight_bytes(const std::int32_t* weights, std::int64_t length, const std::uint8_t* from, std::ptrdiff_t stride) {
    int32x4_t first = vdupq_n_s32(kHalf), second = first;
    for (std::int64_t j = 0; j < length; ++j, from += stride) {
        const int16x8_t samples = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(from)));
        first = vmlaq_n_s32(first, vmovl_s16(vget_low_s16(samples)), weights[j]);
        second = vmlaq_n_s32(second, vmovl_s16(vget_high_s16(samples)), weights[j]);
    }
    return clipped(first, second);
}

void vertical(const Taps& taps, Rows from, std::int64_t bytes, WritableRows to) {
    for (std::int64_t i = 0; i < taps.size(); ++i) {
        const std::uint8_t* rows = from.data + taps.first[i] * from.stride;
        std::uint8_t* result = to.data + i * to.stride;
        std::int64_t x = 0;
        for (; x + 8 <= bytes; x += 8) vst1_u8(result + x, eight_bytes(taps.of(i), taps.length[i], rows + x, from.stride));
        if (x < bytes) {  // reads slack, and must not write it
            std::uint8_t last[8];
            vst1_u8(last, eight_bytes(taps.of(i), taps.length[i], rows + x, from.stride));
            for (std::int64_t k = 0; x + k < bytes; ++k) result[x + k] = last[k];
        }
    }
}

}  // namespace

const Kernels kNeonKernels = {"neon", horizontal, vertical};

}  // namespace oce::core

#endif
