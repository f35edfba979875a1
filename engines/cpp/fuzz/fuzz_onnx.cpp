// Fuzz target: the places of an ONNX file's weights.
#include <stdexcept>

#include "bundle/onnx_external_data.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        oce::core::external_data({reinterpret_cast<const char*>(data), size});
    } catch (const std::invalid_argument&) {
        return 0;
    }
    return 0;
}
