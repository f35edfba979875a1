// The header of a .npy array, versions 1 to 3 (numpy.lib.format).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace oce::core {

struct NpyHeader {
    std::string dtype;  // numpy's name
    std::size_t item_bytes = 0;
    bool is_fortran = false;
    std::vector<std::int64_t> shape;
    std::size_t count = 0;         // items
    std::size_t header_bytes = 0;  // the items follow
};

/// Read a header. Throws std::invalid_argument where it is damaged, or the array has another dtype.
NpyHeader read_npy_header(std::string_view file);

}  // namespace oce::core
