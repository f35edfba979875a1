// The check that every field of a manifest is within its range (engines/schema/ranges.py).
#pragma once

#include <optional>
#include <string>

#include "bundle/json_values.hpp"

namespace oce::core {

/// The first field out of its range, in words ("files['x'].bytes is -1: it must be 0 to 100"), or nothing.
std::optional<std::string> out_of_range(const Value& manifest);

}  // namespace oce::core
