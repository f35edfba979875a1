// The paths that a manifest uses.
#pragma once

#include <string>
#include <vector>

#include "bundle/manifest.hpp"

namespace oce::core {

/// Every path in the manifest, except for its list of files.
std::vector<std::string> manifest_paths(const Manifest& manifest);

}  // namespace oce::core
