// The conversion of a manifest's checked JSON into the structs of manifest.hpp.
#pragma once

#include "bundle/json_values.hpp"
#include "bundle/manifest.hpp"

namespace oce::core {

/// The manifest of JSON that fits the schema and is within all ranges.
Manifest manifest_of(const Value& value);

/// The tower of a name that fits the schema.
TowerName tower_named(std::string_view name);

}  // namespace oce::core
