// SHA-256 (FIPS 180-4), with which the manifest lists every file.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace oce::core {

/// A running checksum: `add` pieces, then take `hex` once.
class Sha256 {
public:
    void add(std::string_view piece);
    /// The checksum in small hexadecimal digits; nothing may be added afterwards.
    std::string hex();

private:
    void compress(const unsigned char* block);

    std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    std::array<unsigned char, 64> rest_{};
    std::size_t filled_ = 0;
    std::uint64_t bytes_ = 0;
};

}  // namespace oce::core
