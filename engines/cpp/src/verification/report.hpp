// What oce_inspect and oce_verify return, as JSON with the names of `python -m engines inspect|verify --json`.
#pragma once

#include <filesystem>
#include <string>

#include "modules/module.hpp"

namespace oce::core {

/// The manifest, and for each engine whether it can run here, or why not. Throws BundleError.
std::string inspect_json(const std::filesystem::path& bundle, const Options& options);

/// Check every checksum, and compare this machine's embeddings, pixels and ids with the bundle's. options.engine may be `all`.
/// Throws BundleError for a damaged bundle and EngineUnavailableError where an engine cannot run; a failed comparison is in the
/// JSON.
std::string verify_json(const std::filesystem::path& bundle, const Options& options);

}  // namespace oce::core
