// Decoded pixels: the kinds that differ in how they are resized, filled and converted, and their memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

namespace oce::core {

/// What a pixel's bytes mean. Grey with alpha is held as rgba, because the two give equal pixels in every step.
enum class Kind {
    grey,     // 1 byte
    bit,      // 1 byte, 0 or 255
    palette,  // 1 byte, an index
    grey16,   // 2 bytes in the machine's order
    rgb,      // 4 bytes, the last one is not used: vectors work on four channels
    rgba,     // 4 bytes
    cmyk,     // 4 bytes, 255 is full ink
};

/// Bytes of a pixel of this kind.
constexpr int bytes_of(Kind kind) {
    if (kind == Kind::grey16) return 2;
    return kind == Kind::rgb || kind == Kind::rgba || kind == Kind::cmyk ? 4 : 1;
}

/// Bytes after the last pixel that vector code may read.
inline constexpr std::size_t kSlack = 64;

struct Pixels {
    Kind kind = Kind::rgb;
    int width = 0, height = 0;
    int reduction = 1;  // by which the width and height of the file were divided, and rounded up
    std::unique_ptr<std::uint8_t[]> data;
    std::array<std::uint8_t, 768> palette{};  // colours of the indices; black where the file has none

    Pixels() = default;

    /// Memory for width * height pixels, which are not written; the sizes must have been checked.
    Pixels(Kind pixel_kind, int pixel_width, int pixel_height) : kind(pixel_kind), width(pixel_width), height(pixel_height) {
        const std::size_t bytes = static_cast<std::size_t>(stride()) * static_cast<std::size_t>(height);
        data = std::make_unique_for_overwrite<std::uint8_t[]>(bytes + kSlack);
        std::memset(data.get() + bytes, 0, kSlack);
    }

    [[nodiscard]] std::ptrdiff_t stride() const { return static_cast<std::ptrdiff_t>(width) * bytes_of(kind); }
    [[nodiscard]] std::uint8_t* row(std::int64_t y) { return data.get() + y * stride(); }
    [[nodiscard]] const std::uint8_t* row(std::int64_t y) const { return data.get() + y * stride(); }
};

}  // namespace oce::core
