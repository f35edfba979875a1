// Image files with unusual content, which other readers may refuse or read differently.
#pragma once

#include <cstdint>
#include <string_view>

namespace oce::core {

/// Largest width x height of a plain WebP file.
inline constexpr std::uint64_t kMaxPlainPixels = 178'956'970;

/// The reason why Pillow may treat a JPEG, PNG or WebP file in another way than this library, or null for a plain file.
///
/// Pillow reads parts of a file that change no pixel, and refuses the whole file where they are damaged or too large: markers
/// before the pixels of a JPEG, chunks of a PNG. Plain files have none but the parts that are listed here, with their proper
/// lengths.
const char* unusual_content(std::string_view data);

}  // namespace oce::core
