// One axis of 8-bit samples resized: kernels for kinds of processors, all with equal results.
#pragma once

#include <cstddef>
#include <cstdint>

#include "image/coefficients.hpp"

namespace oce::core {

/// Samples in memory; rows are `stride` bytes apart. kSlack bytes after the last row may be read.
struct Rows {
    const std::uint8_t* data;
    std::ptrdiff_t stride;
};

struct WritableRows {
    std::uint8_t* data;
    std::ptrdiff_t stride;
};

struct Kernels {
    const char* name;
    /// New columns 0 ... taps.size() - 1 of `rows` rows; a pixel has `channels` (1 or 4) bytes.
    void (*horizontal)(const Taps& taps, Rows from, std::int64_t rows, int channels, WritableRows to);
    /// New rows 0 ... taps.size() - 1 of `bytes` bytes.
    void (*vertical)(const Taps& taps, Rows from, std::int64_t bytes, WritableRows to);
};

/// Names of the kernels in the order of preference; the last one runs everywhere.
extern const Kernels kScalarKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
#elif defined(__aarch64__)
extern const Kernels kNeonKernels;
#endif

/// The first kernels that this processor runs, or those that the environment variable OCE_SIMD names; it is read at each call.
///
/// Throws InputError where OCE_SIMD has a name that is unknown or that this processor does not run.
const Kernels& chosen_kernels();

}  // namespace oce::core
