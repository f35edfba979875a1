// Fuzz target: the decoder of webp files.
#include "image_target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    return oce::fuzz::preprocess_as("RIFF", data, size);
}
