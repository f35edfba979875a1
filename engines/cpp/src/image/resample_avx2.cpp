// Kernels for x86-64 processors with AVX2; only functions marked so use it, and resample.cpp asks the processor first.
//
// A weight has 24 bits, and the fast multiplication takes 16. So weight = high * 2^12 + low, with 0 <= low < 2^12; sums of each
// part wrap at 2^32 as the sum of the whole does, which fits, and so the result is exact.
#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <vector>

#include "image/resample.hpp"

#define OCE_AVX2 __attribute__((target("avx2")))

namespace oce::core {
namespace {

constexpr int kLowBits = 12;
constexpr int kRows = 4;  // for which one reading of the weights serves

std::int16_t high_of(std::int32_t weight) {
    return static_cast<std::int16_t>(weight >> kLowBits);
}
std::int16_t low_of(std::int32_t weight) {
    return static_cast<std::int16_t>(weight & ((1 << kLowBits) - 1));
}

/// Weights in groups: the high parts of a group, then its low parts.
std::vector<std::int16_t> split(const Taps& taps, std::ptrdiff_t group) {
    std::vector<std::int16_t> parts(taps.weights.size() * 2);
    std::int16_t* part = parts.data();
    for (std::size_t i = 0; i < taps.weights.size(); i += static_cast<std::size_t>(group), part += 2 * group) {
        std::transform(&taps.weights[i], &taps.weights[i] + group, part, high_of);
        std::transform(&taps.weights[i], &taps.weights[i] + group, part + group, low_of);
    }
    return parts;
}

OCE_AVX2 inline __m128i load16(const void* from) {
    return _mm_loadu_si128(static_cast<const __m128i*>(from));
}
OCE_AVX2 inline __m256i load32(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}

/// The eight sums before their clipping to 8 bits.
OCE_AVX2 inline __m256i joined(__m256i high, __m256i low) {
    const __m256i half = _mm256_set1_epi32(1 << (Taps::kBits - 1));
    return _mm256_srai_epi32(_mm256_add_epi32(_mm256_add_epi32(_mm256_slli_epi32(high, kLowBits), low), half), Taps::kBits);
}

OCE_AVX2 inline __m128i joined(__m128i high, __m128i low) {
    const __m128i half = _mm_set1_epi32(1 << (Taps::kBits - 1));
    return _mm_srai_epi32(_mm_add_epi32(_mm_add_epi32(_mm_slli_epi32(high, kLowBits), low), half), Taps::kBits);
}

OCE_AVX2 inline __m128i halves_added(__m256i sums) {
    return _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
}

/// A new pixel of four channels in each of `rows` rows; four old pixels at a time.
template <int rows>
OCE_AVX2 inline void one_pixel(const std::int16_t* parts, std::int64_t length, const std::uint8_t* from, std::ptrdiff_t stride,
                               std::uint8_t* to, std::ptrdiff_t to_stride) {
    const __m128i pairs = _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    const __m256i high_lanes = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1), low_lanes = _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3);
    __m256i high[rows], low[rows];
    for (int row = 0; row < rows; ++row) high[row] = low[row] = _mm256_setzero_si256();
    for (std::int64_t j = 0; j < length; j += 4, parts += 8, from += 16) {
        const __m256i both = _mm256_castsi128_si256(load16(parts));
        const __m256i high_part = _mm256_permutevar8x32_epi32(both, high_lanes);
        const __m256i low_part = _mm256_permutevar8x32_epi32(both, low_lanes);
        for (int row = 0; row < rows; ++row) {
            const __m256i samples = _mm256_cvtepu8_epi16(_mm_shuffle_epi8(load16(from + row * stride), pairs));
            high[row] = _mm256_add_epi32(high[row], _mm256_madd_epi16(samples, high_part));
            low[row] = _mm256_add_epi32(low[row], _mm256_madd_epi16(samples, low_part));
        }
    }
    for (int row = 0; row < rows; ++row) {
        const __m128i sums = joined(halves_added(high[row]), halves_added(low[row]));
        const __m128i words = _mm_packs_epi32(sums, sums);
        const int pixel = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
        __builtin_memcpy(to + row * to_stride, &pixel, sizeof pixel);
    }
}

template <int rows>
OCE_AVX2 void four_channels(const Taps& taps, const std::int16_t* parts, Rows from, WritableRows to) {
    for (std::int64_t i = 0; i < taps.size(); ++i) {
        one_pixel<rows>(parts + 2 * i * taps.stride, taps.length[i], from.data + taps.first[i] * 4, from.stride, to.data + i * 4,
                        to.stride);
    }
}

OCE_AVX2 inline std::int32_t sum_of(__m256i sums) {
    const __m128i four = halves_added(sums);
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

/// A row of one channel; sixteen old samples at a time.
OCE_AVX2 void one_channel(const Taps& taps, const std::int16_t* parts, const std::uint8_t* from, std::uint8_t* to) {
    for (std::int64_t i = 0; i < taps.size(); ++i) {
        const std::int16_t* part = parts + 2 * i * taps.stride;
        const std::uint8_t* sample = from + taps.first[i];
        __m256i high = _mm256_setzero_si256(), low = high;
        for (std::int64_t j = 0; j < taps.length[i]; j += 16, part += 32, sample += 16) {
            const __m256i samples = _mm256_cvtepu8_epi16(load16(sample));
            high = _mm256_add_epi32(high, _mm256_madd_epi16(samples, load32(part)));
            low = _mm256_add_epi32(low, _mm256_madd_epi16(samples, load32(part + 16)));
        }
        const __m128i sum = joined(_mm_cvtsi32_si128(sum_of(high)), _mm_cvtsi32_si128(sum_of(low)));
        const std::int32_t value = _mm_cvtsi128_si32(sum);
        to[i] = static_cast<std::uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
    }
}

void horizontal(const Taps& taps, Rows from, std::int64_t rows, int channels, WritableRows to) {
    const std::vector<std::int16_t> parts = split(taps, channels == 1 ? 16 : 4);
    std::int64_t y = 0;
    for (; channels == 4 && y + kRows <= rows; y += kRows) {
        four_channels<kRows>(taps, parts.data(), {from.data + y * from.stride, from.stride}, {to.data + y * to.stride, to.stride});
    }
    for (; y < rows; ++y) {
        const std::uint8_t* row = from.data + y * from.stride;
        std::uint8_t* result = to.data + y * to.stride;
        if (channels == 4) {
            four_channels<1>(taps, parts.data(), {row, from.stride}, {result, to.stride});
        } else {
            one_channel(taps, parts.data(), row, result);
        }
    }
}

/// 32 bytes of a new row, from two old rows at a time.
OCE_AVX2 inline void many_bytes(const std::int16_t* parts, std::int64_t length, const std::uint8_t* from, std::ptrdiff_t stride,
                                std::uint8_t* to) {
    const __m256i zero = _mm256_setzero_si256();
    __m256i high[4] = {zero, zero, zero, zero}, low[4] = {zero, zero, zero, zero};
    for (std::int64_t j = 0; j < length; j += 2, parts += 4, from += 2 * stride) {
        const __m256i one = load32(from);
        const __m256i other = load32(j + 1 < length ? from + stride : from);  // the weight after the last is 0
        const __m256i near = _mm256_unpacklo_epi8(one, other), far = _mm256_unpackhi_epi8(one, other);
        const __m256i pairs[4] = {_mm256_unpacklo_epi8(near, zero), _mm256_unpackhi_epi8(near, zero),
                                  _mm256_unpacklo_epi8(far, zero), _mm256_unpackhi_epi8(far, zero)};
        std::int32_t two[2];
        __builtin_memcpy(two, parts, sizeof two);
        const __m256i high_part = _mm256_set1_epi32(two[0]), low_part = _mm256_set1_epi32(two[1]);
        for (int k = 0; k < 4; ++k) {
            high[k] = _mm256_add_epi32(high[k], _mm256_madd_epi16(pairs[k], high_part));
            low[k] = _mm256_add_epi32(low[k], _mm256_madd_epi16(pairs[k], low_part));
        }
    }
    const __m256i first = _mm256_packs_epi32(joined(high[0], low[0]), joined(high[1], low[1]));
    const __m256i second = _mm256_packs_epi32(joined(high[2], low[2]), joined(high[3], low[3]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_packus_epi16(first, second));
}

OCE_AVX2 void vertical_avx2(const Taps& taps, const std::int16_t* parts, Rows from, std::int64_t bytes, WritableRows to) {
    for (std::int64_t i = 0; i < taps.size(); ++i, parts += 2 * taps.stride) {
        const std::uint8_t* rows = from.data + taps.first[i] * from.stride;
        std::uint8_t* result = to.data + i * to.stride;
        for (std::int64_t x = 0; x + 32 <= bytes; x += 32) many_bytes(parts, taps.length[i], rows + x, from.stride, result + x);
        if (const std::int64_t rest = bytes % 32; rest != 0) {  // reads slack, and must not write it
            std::uint8_t last[32];
            many_bytes(parts, taps.length[i], rows + bytes - rest, from.stride, last);
            std::copy_n(last, rest, result + bytes - rest);
        }
    }
}

void vertical(const Taps& taps, Rows from, std::int64_t bytes, WritableRows to) {
    vertical_avx2(taps, split(taps, 2).data(), from, bytes, to);
}

}  // namespace

const Kernels kAvx2Kernels = {"avx2", horizontal, vertical};

}  // namespace oce::core

#endif
