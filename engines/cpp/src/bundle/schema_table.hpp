// The tables of the manifest's structs, the counterpart of engines/schema/structs.py and engines/schema/ranges.py.
#pragma once

#include <cstddef>

#include "bundle/schema.hpp"

namespace oce::core {

inline constexpr std::size_t kMaxText = 4096;       // characters
inline constexpr std::size_t kMaxEntries = 10'000;  // limit for a list, and for an object whose names are free

/// The whole of manifest.json.
extern const Type kManifestType;
/// The manifest with its version only, which is looked at before anything else.
extern const Type kVersionType;

}  // namespace oce::core
