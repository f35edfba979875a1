// Fuzz target: the cleaning of texts. The first byte chooses the kind of cleaning.
#include "text/cleaning.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const auto kind = static_cast<oce::core::Clean>(data[0] % 3);
    oce::core::clean({reinterpret_cast<const char*>(data) + 1, size - 1}, kind);
    return 0;
}
