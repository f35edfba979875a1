// numpy's archives of arrays: stored or deflated members of a zip file, each a .npy array without pickles.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace oce::core {

/// One array in C order.
struct NpyArray {
    std::string dtype;  // numpy's name: uint8, int32, float32, …
    std::vector<std::int64_t> shape;
    std::vector<unsigned char> data;
};

/// The arrays of an archive by name (without `.npy`); throws std::invalid_argument where it is damaged or has other dtypes.
std::map<std::string, NpyArray> read_npz(std::string_view archive);

}  // namespace oce::core
