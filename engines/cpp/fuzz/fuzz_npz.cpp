// Fuzz target: archives of arrays.
#include <stdexcept>

#include "bundle/npz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        oce::core::read_npz({reinterpret_cast<const char*>(data), size});
    } catch (const std::invalid_argument&) {
        return 0;
    }
    return 0;
}
