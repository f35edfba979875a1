// Fuzz target: manifest.json.
#include "bundle/manifest.hpp"
#include "errors.hpp"
#include "scratch_file.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    oce::fuzz::scratch_file("manifest.json", data, size);
    try {
        oce::core::read_manifest(oce::fuzz::scratch_folder());
    } catch (const oce::core::BundleError&) {
        return 0;
    }
    return 0;
}
